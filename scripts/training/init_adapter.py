"""The adapter that a training goes on from (``--init-adapter``): a folder of peft, or a GGUF file such as the shipped ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import InputError
from scripts.training import base as bases
from scripts.training.base import Base
from scripts.training.data import data_hash
from scripts.training.lora_gguf import as_folder

_REMEDY = "Give RUN/adapter or an adapter.gguf that scripts.train wrote."
_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def adapter_hash(adapter: Path | None) -> str | None:
    """First 16 hex digits of the SHA-256 of an adapter's weights and configuration; None without one. Raises InputError for what is no adapter."""
    if adapter is None:
        return None
    files = [adapter / name for name in _FILES if (adapter / name).is_file()] if adapter.is_dir() else [adapter]
    if adapter.is_dir() and not ((adapter / _FILES[0]).is_file() and len(files) > 1):
        raise InputError(str(adapter), f"holds no adapter ({_FILES[0]} and weights)", _REMEDY)
    try:
        return data_hash(files)
    except OSError as error:
        raise InputError(str(adapter), f"cannot be read ({error.strerror})", _REMEDY) from None


def with_init_adapter(model: Any, adapter: Path, base: Base, config: dict[str, Any], scratch: Path) -> Any:
    """``model`` with the weights of ``adapter`` on it, to be trained. ``config`` is the base's; a GGUF adapter is restored into ``scratch``. Raises InputError."""
    from peft import PeftModel
    from safetensors import SafetensorError

    folder = as_folder(adapter, base.folder, scratch)
    bases.check_adapter(folder, base, config)
    try:
        loaded = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except (ValueError, RuntimeError, KeyError, TypeError, OSError, SafetensorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(str(adapter), f"does not fit the base model {base.name} ({' '.join(lines[:2])[:200]})", _REMEDY) from error
    if not hasattr(loaded.peft_config["default"], "lora_alpha"):
        raise InputError(str(adapter), "is no LoRA adapter", _REMEDY)
    return loaded


def adapter_settings(model: Any) -> dict[str, Any]:
    """Fields of :class:`scripts.training.settings.TrainSettings` as the adapter on ``model`` has them, which need not be those that were asked for."""
    config = model.peft_config["default"]
    targets = config.target_modules if isinstance(config.target_modules, str) else ",".join(sorted(config.target_modules))
    return {"rank": config.r, "alpha": config.lora_alpha, "dropout": config.lora_dropout, "targets": targets, "rslora": config.use_rslora, "dora": config.use_dora}
