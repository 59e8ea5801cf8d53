"""Base models for training: the packaged GGUF (dequantised once into the user's cache), another GGUF, a folder of safetensors, or a model name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import DoujieError, InputError
from core.gates.packaged import packaged_model
from scripts.training.gate_task import Encode

REMEDY = "Give a GGUF file, a folder that save_pretrained wrote, or leave --base empty for the packaged model."
IDENTITY = "doujie.json"


@dataclass(frozen=True, slots=True)
class Base:
    """A base model ready for training. ``folder`` holds config and safetensors (for a model name: the name). ``start`` is the begin-of-sequence token that every prompt opens
    with; ``end`` the end-of-text token (either is empty for a tokenizer without it)."""

    name: str
    folder: Path
    tokenizer: Any
    start: tuple[int, ...]
    pad: int
    tokenizer_hash: str
    end: tuple[int, ...] = ()

    @property
    def encode(self) -> Encode:
        """Token ids of a text as the serving engines make them: what looks like a special token is what a member wrote."""
        return cache(self.plain)

    def plain(self, text: str) -> tuple[int, ...]:
        """Token ids; names of special tokens are plain text."""
        return self._ids(text, split_special_tokens=True)

    def marked_up(self, text: str) -> tuple[int, ...]:
        """Token ids; names of special tokens are these tokens, as in axolotl: whoever writes prompts may put a chat's markup into them."""
        return self._ids(text, split_special_tokens=False)

    def _ids(self, text: str, *, split_special_tokens: bool) -> tuple[int, ...]:
        readable = text.encode("utf-8", "replace").decode()  # half a surrogate pair is "?", as in serving
        return tuple(self.tokenizer(readable, add_special_tokens=False, split_special_tokens=split_special_tokens).input_ids) if text else ()


def load_base(value: str) -> Base:
    """Prepare the base model that ``value`` names; empty is the packaged one. Raises InputError."""
    from transformers import AutoTokenizer

    folder = base_folder(value)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(value or "packaged model", f"no tokenizer can be loaded ({str(error).splitlines()[0][:120]})", REMEDY) from error
    start, end = (() if token is None else (int(token),) for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Base(folder.name if folder.is_dir() else value, folder, tokenizer, start, int(pad or 0), tokenizer_hash(tokenizer), end)


def base_folder(value: str) -> Path:
    """Folder with config.json and safetensors, made from a GGUF file on first use; a name that is no path is returned as it is."""
    path = packaged_gguf() if not value else Path(value).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise InputError(str(path), "holds no config.json", REMEDY)
        return path
    if path.suffix == ".gguf" or path.is_file():
        return _dequantised(path)
    if value.count("/") == 1 and not value.startswith((".", "/", "~")):
        return path  # a name on a model hub
    raise InputError(value, "no such file or folder", REMEDY)


def base_identity(base: Base, value: str) -> str:
    """What tells the base that ``value`` names from others: its name; of a folder, which may be called as another is (``RUN/model``), also where it lies and what is in it."""
    if not value or not Path(value).expanduser().is_dir():
        return base.name
    files = sorted(path for path in base.folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    told = [str(base.folder.resolve()), *(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)]
    return f"{base.name}-{hashlib.sha256(' '.join(told).encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def packaged_gguf() -> Path:
    try:
        return packaged_model("gate")
    except DoujieError as error:
        raise InputError("base model", str(error), "Name a base with --base.") from error


def _dequantised(path: Path) -> Path:
    """Weights of a GGUF file as float32 safetensors beside other caches; keyed by name, size and time of the file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", REMEDY) from error
    key = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:12]
    target = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "doujie" / "train" / f"{path.stem}-{key}"
    if (target / "config.json").exists():
        return target
    fresh = target.with_name(f"{target.name}.new{os.getpid()}")
    try:
        model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(str(path), f"transformers cannot read this GGUF file ({str(error).splitlines()[0][:120]})", REMEDY) from error
    model.hf_quantizer, model.is_quantized = None, False  # it is plain float32 now
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.replace(target)
    return target


def tokenizer_hash(tokenizer: Any) -> str:
    """First 16 hex digits of a hash over the vocabulary: equal for equal tokenizers."""
    pairs = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    return hashlib.sha256("\n".join(f"{token}\t{index}" for token, index in pairs).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def check_adapter(folder: Path, base: Base, shape: dict[str, Any]) -> None:
    """Raise InputError when the adapter in ``folder`` was trained on another base or tokenizer; ``shape`` is the base's config."""
    try:
        identity = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return  # peft's own checks remain for adapters of other tools
    except (OSError, ValueError) as error:
        raise InputError(str(folder / IDENTITY), f"cannot be read ({error})", "Give the folder that scripts.train wrote.") from error
    try:
        name, tokenizer, own = identity["base"], identity["tokenizer_hash"], identity["shape"]
    except (KeyError, TypeError):
        raise InputError(str(folder / IDENTITY), "does not tell base, tokenizer_hash and shape", "Give RUN/adapter as scripts.train wrote it.") from None
    remedy = f"Use that base, or train without --init-adapter; this base is {base.name}."
    if tokenizer != base.tokenizer_hash:
        raise InputError(str(folder), f"this adapter belongs to another tokenizer, that of {name}", remedy)
    if own != identity_shape(shape):
        raise InputError(str(folder), f"this adapter does not match the base model: it was trained on {name}", remedy)


def identity_shape(config: dict[str, Any]) -> dict[str, Any]:
    """What must agree between two bases for an adapter to fit both. Of a model that also sees images, its language model."""
    text = config.get("text_config") or config
    return {key: text.get(key) for key in ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "vocab_size")}


def base_config(base: Base) -> dict[str, Any]:
    """The base's config as transformers sees it."""
    from transformers import AutoConfig

    found: dict[str, Any] = AutoConfig.from_pretrained(str(base.folder)).to_dict()
    return found
