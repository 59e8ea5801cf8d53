"""A folder belongs to one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from scripts.training.same_run import same_run

FACTS: dict[str, Any] = {"settings": {"rank": 4, "loop": {"seed": 1}}, "data": "a", "gate": None}


def test_a_run_is_continued_by_itself_alone(tmp_path: Path) -> None:
    same_run(tmp_path / "out", FACTS)
    (tmp_path / "out" / "checkpoint").mkdir()
    same_run(tmp_path / "out", FACTS)
    with pytest.raises(InputError, match=r"other settings or data \(data, seed\)"):
        same_run(tmp_path / "out", FACTS | {"data": "b", "settings": {"rank": 4, "loop": {"seed": 2}}})
    assert json.loads((tmp_path / "out" / "settings.json").read_text()) == FACTS


def test_before_the_first_checkpoint_anything_may_change(tmp_path: Path) -> None:
    same_run(tmp_path, FACTS)
    same_run(tmp_path, FACTS | {"data": "b"})
    assert json.loads((tmp_path / "settings.json").read_text())["data"] == "b"


@pytest.mark.parametrize("kept", [None, "", "[]", '{"settings": '])
def test_a_checkpoint_of_nobody_knows_what_is_refused(tmp_path: Path, kept: str | None) -> None:
    (tmp_path / "checkpoint.old").mkdir()
    if kept is not None:
        (tmp_path / "settings.json").write_text(kept)
    with pytest.raises(InputError, match="Give another --out"):
        same_run(tmp_path, FACTS)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="file/out: cannot be written"):
        same_run(tmp_path / "file" / "out", FACTS)
