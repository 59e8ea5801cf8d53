"""Pictures of results: what is drawn for which files."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InputError
from core.head import reliability
from scripts.evaluation.plots import draw
from scripts.evaluation.results import Result

PNG = b"\x89PNG"
GATE = Result("gate", 4, {"calibration_error": 0.1}, reliability=reliability([0.1, 0.4, 0.8, 0.9], [False, True, True, True]))
WINDOWS = Result("windows", 2, {}, curve=[{"threshold": 0.0, "right_share": 0.5, "wrong_share": 0.5}, {"threshold": 0.9, "right_share": 0.1, "wrong_share": 0.0}])


def test_gates_share_one_diagram_and_windows_show_their_curve(tmp_path: Path) -> None:
    files = draw(["a", "b", "c"], [GATE, GATE, WINDOWS], tmp_path / "new")
    assert [file.name for file in files] == ["reliability.png", "acceptance.png"]
    assert all(file.read_bytes().startswith(PNG) for file in files)


def test_nothing_is_drawn_of_what_has_no_probabilities(tmp_path: Path) -> None:
    assert draw(["merge"], [Result("merge", 3, {"f1": 0.8})], tmp_path) == []


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        draw(["a"], [GATE], tmp_path / "file" / "plots")
