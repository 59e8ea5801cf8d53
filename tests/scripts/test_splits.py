"""What a training keeps aside: never everything, never a question that is taught, and the same for the adapter, the head and the calibrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.training.data import Sample, load_samples
from scripts.training.fit_gate import FitSettings, split
from scripts.training.splits import held_out, split_samples
from tests.scripts.test_train import SINGLE, WINDOW, write


def windows(author: str, count: int) -> list[dict[str, Any]]:
    questions = [WINDOW["questions"][0], {"indices": [3], "label": "no"}]  # type: ignore[index]
    return [WINDOW | {"id": f"{author}-{n}", "questions": questions} for n in range(1, count + 1)]


def test_alpaca_records_are_split_by_their_prompts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"instruction": f"判断 {n % 50}", "input": "", "output": "B"} for n in range(100)]), encoding="utf-8")
    taught, held = split_samples(load_samples([path]), 0.1)
    assert 70 <= len(taught) < 100
    assert not {s.prompt for s in taught} & {s.prompt for s in held}, "equal prompts stand on one side"


def test_windows_of_one_author_are_split_by_window(tmp_path: Path) -> None:
    taught, held = split_samples(load_samples([write(tmp_path / "w.jsonl", *windows("mygroup", 50))]), 0.1)
    assert 60 <= len(taught) < 100
    sides = [{sample.id.rsplit("-q", 1)[0] for sample in side} for side in (taught, held)]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_questions_of_one_window_are_split_by_question(tmp_path: Path) -> None:
    window = WINDOW | {"questions": [{"indices": [n], "label": "no"} for n in range(4)]}
    taught, held = split_samples(load_samples([write(tmp_path / "w.jsonl", window)]), 0.5)
    assert taught
    assert held


def test_the_windows_of_an_author_stay_together_where_there_are_several(tmp_path: Path) -> None:
    samples = load_samples([write(tmp_path / "w.jsonl", *windows("t1", 9), *windows("t2", 9), *windows("t3", 9))])
    taught, held = split_samples(samples, 0.2)
    assert not {s.group for s in taught} & {s.group for s in held}


def test_authors_stay_together_where_each_has_a_file_of_the_same_name(tmp_path: Path) -> None:
    files = []
    for name in ("t1", "t2", "t3"):
        asked = [window | {"messages": [said | {"text": f"{said['text']} {window['id']}"} for said in window["messages"]]} for window in windows(name, 9)]
        files.append(write(tmp_path / f"{name}.jsonl", *asked))
    taught, held = split_samples(load_samples(files), 0.2)
    assert held
    assert not {s.group for s in taught} & {s.group for s in held}


def test_a_question_that_is_held_out_in_one_file_is_not_taught_from_another(tmp_path: Path) -> None:
    records = [SINGLE | {"id": f"s{n}", "question": f"冷 吗{n}"} for n in range(60)]
    spaced = [record | {"question": str(record["question"]).replace(" ", "  ")} for record in records]
    taught, held = split_samples(load_samples([write(tmp_path / "a.jsonl", *records), write(tmp_path / "b.jsonl", *spaced)]), 0.2)
    assert held
    assert not {" ".join(s.question.split()) for s in taught} & {" ".join(s.question.split()) for s in held}


@pytest.mark.parametrize("authors", [("mygroup",), ("t1", "t2"), ("t1", "t2", "t3", "t4", "t5")])
def test_the_head_keeps_aside_what_the_adapter_keeps_aside(tmp_path: Path, authors: tuple[str, ...]) -> None:
    samples = load_samples([write(tmp_path / "w.jsonl", *(window for author in authors for window in windows(author, 12)))])
    training, calibrating = split(samples, FitSettings(validation=0.1))
    adapter = split_samples(samples, 0.1)
    assert [[s.id for s in side] for side in (training, calibrating)] == [[s.id for s in side] for side in adapter]
    assert training
    assert calibrating


def test_a_pair_limit_of_0_takes_all_pairs_for_the_head_too(tmp_path: Path) -> None:
    pairs = [SINGLE | {"id": f"s{n}", "question": f"冷吗{n}", "rewrite": f"武汉冷吗{n}"} for n in range(60)]
    samples = load_samples([write(tmp_path / "pairs.jsonl", *pairs)])
    taught, held = split(samples, FitSettings(validation=0.2, pairs=0))
    assert len(taught) + len(held) == 2 * len(pairs)
    assert held
    assert sum(map(len, split(samples, FitSettings(validation=0.2, pairs=40)))) == 40


def test_without_validation_everything_is_taught() -> None:
    samples = [Sample("a", "它呢", "", (), "yes", None, "f", "f")]
    assert held_out(samples, 0.0) == [False]
    assert split_samples(samples, 0.0) == (samples, [])
