"""What a shipped model is called, and the data that made it, also those of the runs that it went on from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from core.arrays import read_arrays
from scripts.training.data import data_hash


def version_of(kind: str, *parts: bytes) -> str:
    """``kind`` and 8 hex digits over ``parts``, what a model is made of: two models have two versions, also of the same data."""
    return f"{kind}-{hashlib.sha256(b''.join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:8]}"


def weights(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Names and values, for :func:`version_of`."""
    return b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))


def data_that_made_it(starts: Sequence[Path], files: Sequence[Path], steps: int) -> str:
    """Hash of all windows that taught: those of the runs before, told by the ``data_hash`` of their .npz files ``starts``, and of this run unless it took no ``steps``.
    "unknown" where none tells."""
    hashes = list(dict.fromkeys([*(_told(start) for start in starts), *([data_hash(files)] if steps else [])]))
    if not hashes:
        return "unknown"
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _told(path: Path) -> str:
    arrays = read_arrays(path, "what a run left", "Give the folder or the file that a training wrote.") if path.exists() else {}
    return str(arrays.get("data_hash", "unknown"))
