"""The windows that ship: each is of the form, and what measures is not what trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.evaluation.forms import Window
from scripts.training.ranker_data import author

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted([*(EXAMPLES / "windows").glob("*.jsonl"), *(EXAMPLES / "measuring").glob("*.jsonl")])


def windows(path: Path) -> list[Window]:
    return [Window.model_validate(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_labels_and_golds_fit_together(path: Path) -> None:
    for window in windows(path):
        for asked in window.questions:
            assert len({window.messages[index].sender for index in asked.indices}) == 1, window.id
            stands_nowhere = asked.kind in ("unresolvable", "image")
            assert (asked.label == "yes" and not stands_nowhere) <= bool(asked.gold), window.id
            assert asked.label == "yes" or asked.gold is None, window.id


def test_no_window_stands_twice_and_who_measures_does_not_train() -> None:
    found = {path: windows(path) for path in FILES}
    ids = [window.id for some in found.values() for window in some]
    assert len(ids) == len(set(ids))
    texts = [tuple(message.text for message in window.messages) for some in found.values() for window in some]
    assert len(texts) == len(set(texts))
    trains, measures = ({author(window.id) for path, some in found.items() if path.parent.name == folder for window in some} for folder in ("windows", "measuring"))
    assert measures
    assert not trains & measures
