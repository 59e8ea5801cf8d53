"""Arrays that a training wrote: ``.npz``, without pickle."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError


def read_arrays(path: Path, what: str, remedy: str) -> dict[str, NDArray[Any]]:
    """All arrays of a file by name. Raises InputError, which says that it cannot be read as ``what``, when it is missing, cut off, of another form or holds objects."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:  # a plain .npy has no names
        raise InputError(str(path), f"cannot be read as {what} ({error})", remedy) from None
