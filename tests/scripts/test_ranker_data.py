"""Windows as training material: replies that are put in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import InputError
from scripts.training.ranker import MOST_WRONG, choose_threshold, crossed
from scripts.training.ranker_data import REPLY, author, cases, read_windows, rewritten_right
from scripts.training.span_training import SpanSettings, plan


def window(question: str, gold: str | None, antecedents: list[int], **extra: Any) -> dict[str, Any]:
    said = [("老樊", "我把 YOLOv8 转成 onnx 了"), ("阿布", "我这块是 RK3588 的板子"), ("墨鱼", "装 rknn-toolkit2 就行"), ("kiki", "周五团建别忘了")]
    messages = [{"sender": who, "text": text, "at": f"2026-03-04T20:11:{index:02d}+08:00"} for index, (who, text) in enumerate([*said, ("老樊", question)])]
    messages[4] |= extra
    return {"id": "t9-001", "messages": messages, "questions": [{"indices": [4], "label": "yes", "gold": gold, "antecedent_indices": antecedents}]}


def test_a_reply_of_the_window_is_the_target() -> None:
    (case,) = cases([window("它支持 int8 吗", "RK3588支持 int8 吗", [1], reply_to=1)], replies=1.0)
    assert [line.is_reply_target for line in case.scene.lines] == [False, True, False, False]
    assert case.scene.quote == "我这块是 RK3588 的板子"


def test_invented_replies_mostly_go_to_what_names_the_antecedent_and_never_to_an_own_message() -> None:
    targets = []
    for seed in range(200):
        made = cases([window("它支持 int8 吗", "RK3588支持 int8 吗", [1])], replies=1.0, seed=seed)
        assert [case.id for case in made] == ["t9-001#0", f"t9-001#0{REPLY}"]
        assert not any(line.is_reply_target for line in made[0].scene.lines)
        targets.append([line.is_reply_target for line in made[1].scene.lines].index(True))
    assert 0 not in targets
    assert 0.5 < targets.count(1) / 200 < 1.0
    assert cases([window("它支持 int8 吗", "RK3588支持 int8 吗", [1])]) != [], "none is made unless asked for"


def test_an_epoch_shows_a_question_with_or_without_its_reply() -> None:
    made = cases([window("它支持 int8 吗", "RK3588支持 int8 吗", [1])], replies=1.0)
    assert {tuple(plan(made, 9, SpanSettings(epochs=1, seed=seed))[0]) for seed in range(20)} == {(0,), (1,)}


@pytest.mark.parametrize(
    ("gold", "term", "right"), [("RK3588支持 int8 吗", "RK3588", True), ("RK3588支持 int8 吗", "rknn-toolkit2", False), ("RK3588的板子支持 int8 吗", "RK3588", False)]
)
def test_a_rewrite_is_right_as_the_evaluation_counts_it(gold: str, term: str, right: bool) -> None:
    (case,) = cases([window("它支持 int8 吗", gold, [1])])
    assert rewritten_right(case, term) is right


@pytest.mark.parametrize(
    ("lists", "right"),
    [({"must_contain": ["RK3588"]}, True), ({"must_contain": ["RK3588", "的板子"]}, False), ({"must_contain": ["RK3588"], "must_not_contain": ["rk 3588"]}, False)],
)
def test_where_an_author_lists_what_a_rewrite_must_hold_the_lists_decide(lists: dict[str, list[str]], right: bool) -> None:
    said = window("它支持 int8 吗", "RK3588的板子支持 int8 吗", [1])
    said["questions"][0] |= lists
    (case,) = cases([said])
    assert rewritten_right(case, "RK3588") is right


def test_what_has_no_gold_cannot_be_rewritten_right() -> None:
    (case,) = cases([window("它支持 int8 吗", None, [])])
    assert not any(rewritten_right(case, term.text) for term in case.terms)


@pytest.mark.parametrize(("case_id", "name"), [("t9-001", "t9"), (f"t9-001#0{REPLY}", "t9"), ("mine#0", "mine"), (f"mine#12{REPLY}", "mine")])
def test_all_questions_of_a_window_are_by_one_author(case_id: str, name: str) -> None:
    assert author(case_id) == name


def test_equals_are_accepted_together() -> None:
    confidence = np.array([0.9] * 40 + [0.5] * 20)
    right = np.array([True] * 47 + [False] * 13)
    assert np.mean(~right) > MOST_WRONG
    assert choose_threshold(confidence, right, np.ones(60), errors=0.0) == 0.9
    assert choose_threshold(confidence[:47], right[:47], np.ones(47), errors=0.0) == 0.5
    assert choose_threshold(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0)) > 1.0


def as_file(path: Path, *windows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in windows), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"messages": [{"sender": "A", "text": "它呢"}]}, r"messages\.0\.at"),
        ({"questions": [{"indices": [4]}]}, r"questions\.0\.label"),
        ({"questions": [{"indices": [9], "label": "no"}]}, "indices"),
        ({"id": "t9-001", "questions": []}, "another window has the id 't9-001' too"),
    ],
)
def test_a_window_that_cannot_be_used_is_named_before_anything_is_computed(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    good = window("它支持 int8 吗", "RK3588支持 int8 吗", [1])
    others = [good, good | {"id": "t8-001"}]
    assert len(read_windows([as_file(tmp_path / "good.jsonl", *others, good)])) == 3
    with pytest.raises(InputError, match=rf"bad\.jsonl:3: .*{named}") as caught:
        read_windows([as_file(tmp_path / "bad.jsonl", *others, good | {"id": "t8-002", **change})])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("gold", "antecedents", "named"), [("RK3588支持 int8 吗", [], "antecedent_indices"), (None, [1], "gold")])
def test_windows_that_teach_nothing_are_one_line(gold: str | None, antecedents: list[int], named: str) -> None:
    taught = window("它支持 int8 吗", gold, antecedents)
    with pytest.raises(InputError, match=named):
        crossed([taught | {"id": f"t{n}-001"} for n in (1, 2, 3)], seed=1)
