"""Questions asked again with the first thing put in: what they still lack is what gold adds beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.antecedent_features import Array
from scripts.training.asked_again import second_cases
from scripts.training.pointer import with_more
from scripts.training.ranker_data import Case, author, cases
from scripts.training.span_training import Material, SpanSettings, with_asked_again
from tests.scripts.few_windows import few_windows

TEXTS = ["srt 推流老断，换 rist 试试？", "先别换，latency 参数调大，缓冲够了就不断", "中午吃啥", "楼下的麻辣烫"]


def asked(question: str, gold: str | None, antecedents: list[int], **lists: list[str]) -> Case:
    senders = ("老周", "阿琳", "小武", "阿琳")
    messages = [{"sender": sender, "text": text, "at": f"2026-03-04T20:{index:02d}:00+08:00"} for index, (sender, text) in enumerate(zip(senders, TEXTS, strict=True))]
    messages.append({"sender": "老周", "text": question, "at": "2026-03-04T20:09:00+08:00"})
    labelled: dict[str, Any] = {"indices": [4], "label": "yes" if gold else "no", "gold": gold, "antecedent_indices": antecedents, "kind": "ellipsis", **lists}
    (case,) = cases([{"id": "t1-001", "lang": "zh", "messages": messages, "questions": [labelled]}])
    return case


TWO = ("两头都要设吗", "srt 的 latency 两头都要设吗", [0, 1])
ONE = ("收费吗", "srt 收费吗", [0])


def wanted(case: Case) -> set[str]:
    return {term.text for term, grade in zip(case.terms, case.grades, strict=True) if grade}


def test_of_two_things_either_comes_first_and_the_other_is_looked_for() -> None:
    made = [case for _, case in second_cases([asked(*TWO)], 9, 1)]
    assert {case.scene.question.partition(" + ")[2] for case in made} == {"两头都要设吗"}
    for case in made:
        first = case.scene.question.partition(" + ")[0]
        assert case.resolvable
        assert all(("latency" in found) is ("srt" in first) for found in wanted(case)), f"{first}: {wanted(case)}"
        assert not any(first in term.text for term in case.terms)
        assert case.antecedent.tolist() == ([False, True, False, False] if "srt" in first else [True, False, False, False])


def test_where_one_thing_says_it_all_nothing_is_looked_for() -> None:
    for index, case in second_cases([asked(*TWO), asked(*ONE)], 9, 1):
        assert case.resolvable is (index == 0)
        assert bool(wanted(case)) is (index == 0)


def test_an_authors_list_says_whether_two_are_needed() -> None:
    listed = asked(*TWO, must_contain=["latency"], must_not_contain=["rist"])
    made = second_cases([asked(*TWO), listed], 9, 1)
    assert [case.resolvable for index, case in made if index == 1] == [False]
    needed = asked(*TWO, must_contain=["latency", "srt"], must_not_contain=["rist"])
    assert all(case.resolvable and not any("rist" in found for found in wanted(case)) for _, case in second_cases([needed], 9, 1))


def test_the_held_fold_and_questions_without_gold_are_not_asked_again() -> None:
    assert second_cases([asked(*TWO)], 0, 1) == []
    assert second_cases([asked("今天周几", None, [])], 9, 1) == []


def test_more_windows_may_be_of_one_author_and_are_not_taken_twice(tmp_path: Path) -> None:
    lines = few_windows(tmp_path / "few.jsonl", 2).read_text(encoding="utf-8").splitlines()
    one = [line for line in lines if '"t4-' in line]
    others = [line for line in lines if line not in one]
    files = [tmp_path / "others.jsonl", tmp_path / "one.jsonl"]
    for path, some in zip(files, (others, [*one, others[0]]), strict=True):
        path.write_text("\n".join(some), encoding="utf-8")
    windows, more = with_more(files[:1], files[1:])
    assert [len(windows), [author(window["id"]) for window in more]] == [len(others), ["t4", "t4"]]


@pytest.mark.parametrize(("share", "again"), [(0.0, 0), (0.5, 4), (2.0, 16)])
def test_they_are_mixed_in_by_their_share(share: float, again: int) -> None:
    found = [asked(*TWO), asked(*ONE)]
    scores: list[Array] = [np.arange(4.0), np.arange(4.0) + 1]
    settings = SpanSettings(asked_again=share, batch_size=4)
    material = with_asked_again(Material(found, scores, []), found, 9, settings, [[0, 1, 0, 1], [1, 0, 1, 0]])
    taught = [index for step in material.steps for index in step]
    assert [index for index in taught if index < 2] == [0, 1, 0, 1, 1, 0, 1, 0], "the others keep their order"
    assert len(taught) - 8 == again
    assert all(len(step) == 4 for step in material.steps)
    lacking = [index for index in taught if index > 1 and material.cases[index].resolvable]
    assert all(material.line_scores[index] is scores[0] for index in lacking), "a question asked again is shown the lines of its own"
