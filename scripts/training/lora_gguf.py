"""LoRA adapters from peft's safetensors to llama.cpp's GGUF.

Tensor names come from gguf's own table; rank-stabilised LoRA scales by alpha / sqrt(r), llama.cpp by alpha / r, so alpha is multiplied by sqrt(r). For the Llama architecture
llama.cpp stores q and k with
the halves of each head interleaved, and the output side (B) of their adapters is permuted likewise. DoRA rescales columns, which GGUF adapters cannot express.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError

_ARCHITECTURES = {"gemma3_text": "gemma3", "gemma3": "gemma3", "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_REMEDY = "Train a plain LoRA on a Gemma 3, Llama or Qwen base, or serve this adapter with the transformers back end."


def convert(adapter: Path, base: Path, out: Path, dtype: str = "f16") -> int:
    """Write the adapter in folder ``adapter`` (peft) for the base model in folder ``base`` (its config.json) to ``out``; ``dtype`` f32 or f16. Returns the number of tensors.

    :raises InputError: for an adapter that GGUF cannot hold, or a base of another shape.
    """
    import gguf
    from safetensors.numpy import load_file

    settings, model = _json(adapter / "adapter_config.json"), _text_config(base)
    arch = _architecture(model, base)
    if settings.get("use_dora"):
        raise InputError(str(adapter), "a DoRA adapter cannot be written as GGUF", _REMEDY)
    names = gguf.get_tensor_name_map(_gguf_arch(gguf, arch), int(model["num_hidden_layers"]))
    writer = gguf.GGUFWriter(str(out), arch)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    rank = int(settings["r"])
    writer.add_float32("adapter.lora.alpha", float(settings["lora_alpha"]) * (math.sqrt(rank) if settings.get("use_rslora") else 1.0))
    count = 0
    for name, tensor in sorted(load_file(adapter / "adapter_model.safetensors").items()):
        target, side = _target(name, names, adapter)
        if arch == "llama" and side == "lora_b":
            tensor = _permuted(tensor, name, model)
        # llama.cpp rounds once more otherwise: store what fits and no more
        writer.add_tensor(f"{target}.{side}", np.ascontiguousarray(tensor, dtype=np.float16 if dtype == "f16" else np.float32))
        count += 1
    out.parent.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return count


def restore(adapter: Path, base: Path, out: Path) -> None:
    """The inverse of :func:`convert`: write the GGUF adapter ``adapter`` into folder ``out`` as peft reads it, so that training can go on from an adapter that is shipped.

    :raises InputError: for a file that is no LoRA adapter, or one of another architecture.
    """
    import gguf
    from safetensors.numpy import save_file

    model = _text_config(base)
    arch = _architecture(model, base)
    try:
        reader = gguf.GGUFReader(adapter)
    except (OSError, ValueError) as error:
        raise InputError(str(adapter), f"cannot be read as GGUF ({error})", "Give an adapter.gguf that scripts.train wrote.") from error
    alpha, own = (field.contents() if field else None for field in (reader.get_field("adapter.lora.alpha"), reader.get_field("general.architecture")))
    if alpha is None or own != arch:
        raise InputError(str(adapter), f"no LoRA adapter for {arch}" if own == arch else f"belongs to the architecture {own}, the base is {arch}", _REMEDY)
    names = gguf.get_tensor_name_map(_gguf_arch(gguf, arch), int(model["num_hidden_layers"]))
    shapes = _matrix_shapes(base)
    stems = {names.get_name(f"{_of_text(module)}.weight", try_suffixes=(".weight",)): module for module in shapes}
    tensors: dict[str, NDArray[Any]] = {}
    for tensor in reader.tensors:
        target, _, side = tensor.name.rpartition(".")
        module = stems.get(target)
        values = np.asarray(tensor.data, dtype=np.float32)
        if module is None or (values.shape[0] != shapes[module][0] if side == "lora_b" else values.shape[1] != shapes[module][1]):
            raise InputError(str(adapter), f"tensor {tensor.name} has no place in the base model", "Give the base that this adapter was trained on.")
        if arch == "llama" and side == "lora_b":
            values = _unpermuted(values, module, model)
        tensors[f"base_model.model.{module}.lora_{side[-1].upper()}.weight"] = np.ascontiguousarray(values)
    rank = next(values.shape[0] for name, values in tensors.items() if ".lora_A." in name)
    targets = sorted({name.split(".lora_")[0].rsplit(".", 1)[1] for name in tensors})
    config: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "bias": "none"}
    config |= {"r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "target_modules": targets}
    out.mkdir(parents=True, exist_ok=True)
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    save_file(tensors, out / "adapter_model.safetensors")


def as_folder(adapter: Path, base: Path, scratch: Path) -> Path:
    """``adapter`` if it is a folder; a GGUF adapter is restored into ``scratch``."""
    if adapter.is_dir():
        return adapter
    restore(adapter, base, scratch)
    return scratch


def _matrix_shapes(base: Path) -> dict[str, list[int]]:
    """Shapes (out, in) of the base's weight matrices by module name."""
    from safetensors import safe_open

    found: dict[str, list[int]] = {}
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            slices = {name.removesuffix(".weight"): file.get_slice(name).get_shape() for name in file.keys() if name.endswith(".weight")}  # noqa: SIM118 - no mapping
        found |= {name: shape for name, shape in slices.items() if len(shape) == 2}
    return found


def _architecture(model: dict[str, Any], base: Path) -> str:
    arch = _ARCHITECTURES.get(str(model.get("model_type")))
    if arch is None:
        raise InputError(str(base), f"no GGUF adapter for models of type {model.get('model_type')!r}", _REMEDY)
    return arch


def _gguf_arch(gguf: Any, arch: str) -> Any:
    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)


def _target(name: str, names: Any, adapter: Path) -> tuple[str, str]:
    """GGUF name of the base tensor and lora_a or lora_b."""
    for end, side in ((".lora_A.weight", "lora_a"), (".lora_B.weight", "lora_b")):
        if name.endswith(end):
            stem = name[: -len(end)]
            inner = stem.removeprefix("base_model.model.")
            found = names.get_name(f"{_of_text(inner)}.weight", try_suffixes=(".weight",))
            if found is not None:
                return str(found), side
    raise InputError(str(adapter), f"tensor {name} has no place in a GGUF adapter", _REMEDY)


def _permuted(tensor: NDArray[Any], name: str, model: dict[str, Any]) -> NDArray[Any]:
    """Rows of a q or k projection in llama.cpp's order; others as they are."""
    heads = int(model["num_attention_heads"])
    if ".k_proj." in name:
        heads = int(model.get("num_key_value_heads") or heads)
    elif ".q_proj." not in name:
        return tensor
    rows = tensor.shape[0]
    return tensor.reshape(heads, 2, rows // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def _unpermuted(tensor: NDArray[Any], name: str, model: dict[str, Any]) -> NDArray[Any]:
    """Inverse of :func:`_permuted`."""
    heads = int(model["num_attention_heads"])
    if name.endswith("k_proj"):
        heads = int(model.get("num_key_value_heads") or heads)
    elif not name.endswith("q_proj"):
        return tensor
    rows = tensor.shape[0]
    return tensor.reshape(heads, rows // heads // 2, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def _text_config(base: Path) -> dict[str, Any]:
    """The config of the base, of a model that also sees images that of its language model."""
    found = _json(base / "config.json")
    text: dict[str, Any] = found.get("text_config") or found
    return {"model_type": found.get("model_type"), **text}


def _of_text(module: str) -> str:
    """Name of a module of the language model as in a model without images."""
    return module.replace("language_model.", "", 1)


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"cannot be read ({error})", "Give the folder that peft's save_pretrained wrote.") from error
    return found
