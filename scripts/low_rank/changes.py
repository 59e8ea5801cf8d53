"""What a training changed, read from what it left: a peft LoRA folder, a GGUF LoRA adapter, or a fully fine-tuned model beside its base."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import InputError
from scripts.low_rank.spectrum import Spectrum, lora_singular_values, singular_values

if TYPE_CHECKING:
    import torch

#: Called with the number of matrices that are done, and of all.
Progressed = Callable[[int, int], None]

_LAYER = re.compile(r"\b(?:layers|blk|h)\.(\d+)\.")
_GGUF_MODULES = {
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "o_proj",
    "ffn_gate": "gate_proj",
    "ffn_up": "up_proj",
    "ffn_down": "down_proj",
    "token_embd": "embed_tokens",
    "output": "lm_head",
}
_ADAPTER_REMEDY = "Give the folder that peft's save_pretrained wrote, or a GGUF adapter."


@dataclass(frozen=True, slots=True)
class Change:
    """All matrices of a training. ``kind``: LoRA or full fine-tuning; ``rank``: the LoRA rank (the largest where they differ), None for full fine-tuning; ``skipped``: tensors
    that have no singular values (vectors), or that only one of the two models has.
    """

    kind: str
    rank: int | None
    spectra: tuple[Spectrum, ...]
    skipped: tuple[str, ...] = ()


def read_change(path: Path, base: str, on_progress: Progressed = lambda done, total: None) -> Change:
    """The change that the training in ``path`` made; ``base`` is needed for a fully fine-tuned model alone (empty: the packaged model).

    :raises InputError: for what is none of the three, a DoRA adapter, or a base of another shape.
    """
    if path.is_dir() and (path / "adapter_config.json").is_file():
        return _from_peft(path, on_progress)
    if path.is_file() and path.suffix == ".gguf" and _is_gguf_adapter(path):
        return _from_gguf(path, on_progress)
    if not path.exists():
        raise InputError(str(path), "does not exist", "Give an adapter, or a fully fine-tuned model with its --base.")
    return _from_models(path, base, on_progress)


def place(name: str) -> tuple[int | None, str]:
    """(number of the block or None, name of the module) of a tensor of transformers or llama.cpp."""
    layer = _LAYER.search(name)
    module = name.removesuffix(".weight").rpartition(".")[2]
    return int(layer[1]) if layer else None, _GGUF_MODULES.get(module, module)


def _from_peft(folder: Path, on_progress: Progressed) -> Change:
    from safetensors import safe_open

    try:
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, ValueError) as error:
        raise InputError(str(folder), f"cannot be read as a peft adapter ({_first_line(error)})", _ADAPTER_REMEDY) from None
    except Exception as error:  # safetensors raises an error of its own, which has no common base
        raise InputError(str(folder), f"its safetensors cannot be read ({_first_line(error)})", _ADAPTER_REMEDY) from None
    if config.get("use_dora"):
        problem = "a DoRA adapter rescales whole columns: its change is not the product of its factors"
        raise InputError(str(folder), problem, "Merge it into its base (peft: merge_and_unload, save_pretrained) and give the merged model with --base.")
    pairs = {_stem(name): (tensors[name], tensors[_other(name)]) for name in tensors if _is_a(name) and _other(name) in tensors}
    if not pairs:
        raise InputError(str(folder), f"is an adapter of type {config.get('peft_type')}, not LoRA", _ADAPTER_REMEDY)
    spectra = []
    for number, (stem, (a, b)) in enumerate(sorted(pairs.items()), 1):
        # An embedding keeps A as (r, vocabulary) and B as (dimension, r) too: the same shapes.
        rank = int(a.shape[0])
        scale = _pattern_value(config, "alpha_pattern", stem, float(config["lora_alpha"])) / (math.sqrt(rank) if config.get("use_rslora") else rank)
        spectra.append(_lora_spectrum(stem, a, b, scale))
        on_progress(number, len(pairs))
    used = {part for name in tensors if _is_a(name) for part in (name, _other(name))}
    return Change("LoRA", _largest_bound(spectra), _ordered(spectra), tuple(sorted(set(tensors) - used)))


def _is_a(name: str) -> bool:
    return "lora_A" in name or "lora_embedding_A" in name


def _other(name: str) -> str:
    return name.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")


def _stem(name: str) -> str:
    return re.sub(r"\.lora_(?:embedding_)?A(?:\.weight)?$", "", name).removeprefix("base_model.model.")


def _pattern_value(config: dict[str, Any], key: str, stem: str, default: float) -> float:
    """peft's per-module settings: the keys are ends of module names, or patterns of them."""
    for pattern, value in (config.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", stem):
            return float(value)
    return default


def _lora_spectrum(stem: str, a: torch.Tensor, b: torch.Tensor, scale: float) -> Spectrum:
    layer, module = place(stem)
    return Spectrum(stem, layer, module, int(b.shape[0]), int(a.shape[1]), lora_singular_values(a, b, scale), bound=int(a.shape[0]))


def _is_gguf_adapter(path: Path) -> bool:
    return str(_gguf_field(_gguf_reader(path), "general.type")) == "adapter"


def _gguf_reader(path: Path) -> Any:
    import gguf

    try:
        return gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise InputError(str(path), f"cannot be read as GGUF ({_first_line(error)})", _ADAPTER_REMEDY) from None


def _gguf_field(reader: Any, name: str) -> Any:
    field = reader.fields.get(name)
    return None if field is None else field.contents()


def _from_gguf(path: Path, on_progress: Progressed) -> Change:
    import torch

    reader = _gguf_reader(path)
    alpha = float(_gguf_field(reader, "adapter.lora.alpha") or 0.0)
    tensors = {tensor.name: torch.from_numpy(np.array(tensor.data, dtype=np.float32)) for tensor in reader.tensors}
    stems = sorted(name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a"))
    spectra = []
    for number, stem in enumerate(stems, 1):
        a, b = tensors[f"{stem}.lora_a"], tensors[f"{stem}.lora_b"]
        # llama.cpp scales by alpha / r, and not at all where alpha is 0.
        spectra.append(_lora_spectrum(stem, a, b, alpha / a.shape[0] if alpha else 1.0))
        on_progress(number, len(stems))
    if not spectra:
        raise InputError(str(path), "holds no LoRA factors", _ADAPTER_REMEDY)
    return Change("LoRA", _largest_bound(spectra), _ordered(spectra))


def _from_models(path: Path, base: str, on_progress: Progressed) -> Change:
    from scripts.training.base import base_folder

    tuned, original = _tensors(base_folder(str(path))), _tensors(base_folder(base))
    shared = [name for name in tuned if name in original]
    if not shared:
        raise InputError(str(path), "has no tensor of the names of its base", "Name the model that it was trained from with --base.")
    skipped = [name for name in (*tuned, *original) if (name in tuned) != (name in original)]
    spectra = []
    for number, name in enumerate(shared, 1):
        one, other = tuned[name](), original[name]()
        if one.shape != other.shape:
            problem = f"{name} is {tuple(one.shape)} here and {tuple(other.shape)} in the base"
            raise InputError(str(path), problem, "Name the model that it was trained from with --base.")
        if one.ndim == 2:
            layer, module = place(name)
            values = singular_values(one.float() - other.float())
            spectra.append(Spectrum(name, layer, module, int(one.shape[0]), int(one.shape[1]), values, base_norm=float(other.float().norm())))
        else:
            skipped.append(name)
        on_progress(number, len(shared))
    if not any(spectrum.energy > 0 for spectrum in spectra):
        raise InputError(str(path), "does not differ from its base", "Give the fine-tuned model first, and with --base the one that it was trained from.")
    return Change("full fine-tuning", None, _ordered(spectra), tuple(sorted(set(skipped))))


def _tensors(folder: Path) -> dict[str, Callable[[], Any]]:
    """Readers of all tensors of the safetensors in a folder, by name: one matrix is in memory at a time."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(str(folder), "holds no safetensors", "Give a folder that save_pretrained wrote, or a GGUF file.")
    return {name: reader for file in files for name, reader in _readers(file)}


def _readers(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except Exception as error:  # safetensors raises an error of its own, which has no common base
        raise InputError(str(path), f"cannot be read as safetensors ({_first_line(error)})", "Give a folder that save_pretrained wrote.") from None

    def reader(name: str) -> Callable[[], Any]:
        def read() -> Any:
            with safe_open(path, "pt") as file:
                return file.get_tensor(name)

        return read

    for name in names:
        yield name, reader(name)


def _largest_bound(spectra: list[Spectrum]) -> int:
    return max(spectrum.bound or 0 for spectrum in spectra)


def _ordered(spectra: list[Spectrum]) -> tuple[Spectrum, ...]:
    return tuple(sorted(spectra, key=lambda one: (-1 if one.layer is None else one.layer, one.module, one.name)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
