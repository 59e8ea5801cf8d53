"""Files of arrays that cannot be used are one clear line, whatever is wrong with them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from core.arrays import read_arrays
from core.errors import InputError


def content(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "one array":
        np.save(file, np.zeros(3))
    elif kind == "objects":
        np.savez(file, a=np.array([{"a": 1}], dtype=object))
    else:
        np.savez_compressed(file, a=np.arange(4000), b=np.zeros(2))
    whole = file.getvalue()
    broken = bytearray(whole)
    broken[60:200] = bytes(140)
    return {"nothing": b"", "text": b"no archive", "cut off": whole[: len(whole) // 2], "overwritten": bytes(broken)}.get(kind, whole)


def test_arrays_come_back_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content("whole"))
    arrays = read_arrays(tmp_path / "a.npz", "a thing", "Make it again.")
    assert {name: len(values) for name, values in arrays.items()} == {"a": 4000, "b": 2}


@pytest.mark.parametrize("kind", ["nothing", "text", "cut off", "overwritten", "objects", "one array"])
def test_what_cannot_be_read_names_the_file_and_the_remedy(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.npz").write_bytes(content(kind))
    with pytest.raises(InputError, match=r"a\.npz: cannot be read as a thing .*Make it again\."):
        read_arrays(tmp_path / "a.npz", "a thing", "Make it again.")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.npz"):
        read_arrays(tmp_path / "gone.npz", "a thing", "Make it again.")
