"""The data that made a pointer or reader, also those of the runs that it went on from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from core.arrays import read_arrays
from scripts.training.data import data_hash


def data_that_made_it(starts: Sequence[Path], files: Sequence[Path], epochs: int) -> str:
    """Hash of all windows that taught: those of the runs before, told by the ``data_hash`` of their .npz files ``starts``, and of this run unless it only measures. "unknown" where
    none tells."""
    hashes = list(dict.fromkeys(_told(start) for start in starts))
    if epochs:
        hashes.append(data_hash(files))
    if not hashes:
        return "unknown"
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _told(path: Path) -> str:
    arrays = read_arrays(path, "what a run left", "Give the folder or the file that a training wrote.") if path.exists() else {}
    return str(arrays.get("data_hash", "unknown"))
