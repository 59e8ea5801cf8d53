"""A fine-tuned encoder with a head as one file that serves: what pointer and editor have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.encoder import EncoderFile
from scripts.training.e5 import differences, head_arrays
from scripts.training.lineage import version_of, weights


def write_fine_tuned(model: Any, layers: Sequence[str], kind: str, form: int, file: EncoderFile, rank: int, digest: str, path: Path) -> None:
    """``model.encoder`` as differences of ``rank`` to ``file``, ``layers`` of ``model.head``, and format, version (of ``kind``) and hash of the data beside them."""
    changed = {name.removeprefix("encoder."): value.detach() for name, value in model.named_parameters() if name.startswith("encoder.") and value.requires_grad}
    arrays: dict[str, Any] = {**differences(file, changed, rank), **head_arrays(model.head, layers)}
    about: dict[str, Any] = {"format": np.array(form), "version": np.array(version_of(kind, weights(arrays))), "data_hash": np.array(digest)}
    np.savez_compressed(path, **about, **arrays)
