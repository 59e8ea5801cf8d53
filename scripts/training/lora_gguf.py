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

    settings, model = _json(adapter / "adapter_config.json"), _json(base / "config.json")
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
            found = names.get_name(f"{inner}.weight", try_suffixes=(".weight",))
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


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"cannot be read ({error})", "Give the folder that peft's save_pretrained wrote.") from error
    return found
