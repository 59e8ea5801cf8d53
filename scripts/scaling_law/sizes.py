"""How many parameters a model file holds, read from its header alone.

GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. safetensors: an unsigned 64-bit length, then that many bytes of JSON with the shape of each tensor.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import BinaryIO

from core.errors import InputError

_REMEDY = "Give a whole GGUF file or a folder of safetensors, or write the size yourself: NAME:270M=PATH."
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMBT]?)", re.IGNORECASE)
#: Bytes of each scalar type of GGUF metadata, by its number; 8 is a string, 9 an array.
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 8


def parse_size(text: str) -> float | None:
    """The number of parameters that a person wrote, such as 270M or 1.5B; None for what is no size."""
    match = _SIZE.fullmatch(text.strip())
    return float(match[1]) * _UNITS[match[2].upper()] if match and float(match[1]) > 0 else None


def shown_size(parameters: float) -> str:
    """As people write it: 135M, 1.5B."""
    for unit in ("T", "B", "M", "K"):
        if parameters >= _UNITS[unit]:
            return f"{parameters / _UNITS[unit]:.3g}{unit}"
    return f"{parameters:.3g}"


def parameters_of(path: Path) -> int:
    """Parameters of a GGUF file, or of all safetensors in a folder. Raises InputError for what is neither, or is not whole."""
    try:
        if path.is_dir():
            return _of_folder(path)
        with path.open("rb") as file:
            return _of_gguf(file, path)
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}", "Check the path.") from None
    except (struct.error, ValueError, KeyError, TypeError):
        raise InputError(str(path), "its header cannot be read", _REMEDY) from None


def _of_folder(folder: Path) -> int:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(str(folder), "holds no safetensors", _REMEDY)
    total = 0
    for path in files:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("longer than the file")
            header = json.loads(file.read(length))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def _of_gguf(file: BinaryIO, path: Path) -> int:
    if file.read(4) != b"GGUF":
        raise InputError(str(path), "is no GGUF file", _REMEDY)
    _, tensors, pairs = struct.unpack("<IQQ", file.read(20))
    for _ in range(pairs):
        _skip_string(file)
        _skip_value(file, _number(file, "<I"))
    total = 0
    for _ in range(tensors):
        _skip_string(file)
        dimensions = _number(file, "<I")
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError("too many dimensions")
        total += math.prod(_number(file, "<Q") for _ in range(dimensions))
        file.seek(12, 1)  # type and offset
    return total


def _number(file: BinaryIO, form: str) -> int:
    value: int = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return value


def _skip_string(file: BinaryIO) -> None:
    file.seek(_number(file, "<Q"), 1)


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _skip_string(file)
    elif kind == _ARRAY:
        inner, count = _number(file, "<I"), _number(file, "<Q")
        if inner in _SCALARS:
            file.seek(_SCALARS[inner] * count, 1)
            return
        for _ in range(count):
            _skip_value(file, inner)
    else:
        file.seek(_SCALARS[kind], 1)
