"""Questions made from messages that name a thing again: what was taken out is known, whatever is mixed in."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from core.errors import InputError
from core.grounding import squeeze
from scripts.training.constructed import constructed, mixed, shown_lines
from scripts.training.ranker_data import REPLY, cases
from scripts.training.span_training import SpanSettings, constructed_first


def window(name: str, texts: list[str], questions: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    senders = ("老樊", "阿布", "墨鱼")
    messages = [{"sender": senders[index % 3], "text": text, "at": f"2026-03-04T20:{index:02d}:00+08:00"} for index, text in enumerate(texts)]
    return {"id": name, "lang": "zh", "messages": messages, "questions": questions or []}


BOARDS = window("t1-001", ["RK3588 的板子到了", "我用的是 Jetson Orin", "周五团建别忘了", "RK3588 支持 int8 吗", "支持的"])
DATABASES = window("t2-001", ["数据库换成 ClickHouse 了", "还是 MySQL 稳", "慢查询怎么开", "MySQL 的慢日志默认关着", "好的"])
ENGLISH = window("t4-001", ["we moved to Zammad", "ours is osTicket", "lunch?", "does Zammad cost much", "no"]) | {"lang": "en"}


def test_a_name_that_is_said_again_is_taken_out_and_known() -> None:
    asked = set()
    for seed in range(60):
        for case in constructed([BOARDS], {}, seed):
            assert case.gold == "RK3588 支持 int8 吗"
            assert "rk3588" not in squeeze(case.scene.question)
            assert {term.text for term, grade in zip(case.terms, case.grades, strict=True) if grade == 3} >= {"RK3588"}
            assert np.flatnonzero(case.antecedent).tolist() == [0]
            asked.add(case.scene.question)
    assert {"支持 int8 吗", "它支持 int8 吗", "那个支持 int8 吗"} <= asked


def test_languages_have_their_own_pronouns() -> None:
    asked = {case.scene.question for seed in range(60) for case in constructed([ENGLISH], {}, seed)}
    assert {"does cost much", "does it cost much", "does that cost much"} <= asked


def test_what_needs_resolution_already_is_left_alone_and_so_is_what_stands_nowhere_before() -> None:
    asked = window("t1-001", [message["text"] for message in BOARDS["messages"]], [{"indices": [3], "label": "yes", "gold": None, "antecedent_indices": []}])
    assert constructed([asked], {}, 1) == []
    assert constructed([window("t1-002", ["早", "早上好", "有人吗", "RK3588 支持 int8 吗"])], {}, 1) == []


def test_nouns_that_stand_everywhere_are_no_names() -> None:
    said = window("t1-003", ["模型太大了", "是的", "嗯", "模型太大跑不动"])
    assert constructed([said], {"模型": 3}, 1) != []
    assert constructed([said], {"模型": 900}, 1) == []


def test_a_piece_of_another_conversation_moves_what_it_is_put_before() -> None:
    question = {"indices": [3], "label": "yes", "gold": "RK3588 支持 int8 吗", "antecedent_indices": [0], "kind": "constructed"}
    asked = {**BOARDS, "messages": [{**m, "text": "它支持 int8 吗", "reply_to": 0} if k == 3 else m for k, m in enumerate(BOARDS["messages"][:4])], "questions": [question]}
    for seed in range(30):
        made = mixed(asked, DATABASES, random.Random(seed))
        (moved,) = made["questions"]
        assert made["messages"][moved["indices"][0]]["text"] == "它支持 int8 吗"
        assert [made["messages"][at]["text"] for at in (*moved["antecedent_indices"], made["messages"][moved["indices"][0]]["reply_to"])] == ["RK3588 的板子到了"] * 2
        assert len(made["messages"]) > 4, "something was put in"
        times = [message["at"] for message in made["messages"]]
        assert times == sorted(times)
        assert not {m["sender"] for m in made["messages"] if m in DATABASES["messages"]}, "members of the other conversation are others"
        assert cases([made])[0].scene.question == "它支持 int8 吗"


def test_nothing_is_put_in_that_names_what_is_meant() -> None:
    question = {"indices": [3], "label": "yes", "gold": "RK3588 支持 int8 吗", "antecedent_indices": [0]}
    same = window("t2-002", ["RK3588 和 RK3576 差多少", "RK3588 快一倍", "RK3588 贵", "RK3588 香"])
    assert all(mixed({**BOARDS, "questions": [question]}, same, random.Random(seed))["messages"] == BOARDS["messages"] for seed in range(20))


def test_the_lines_of_the_antecedent_are_always_shown() -> None:
    (case,) = (case for case in constructed([BOARDS], {}, 1) if not case.id.endswith(REPLY))
    assert all(int(np.argmax(shown_lines(case, random.Random(seed)))) == 0 for seed in range(20))


def test_the_first_steps_teach_constructed_questions_of_authors_that_are_not_held() -> None:
    windows = [BOARDS, DATABASES | {"id": "t3-001"}]
    found = cases(windows)
    material = constructed_first(found, [np.zeros(0)] * len(found), windows, 2, SpanSettings(constructed=5, batch_size=1))
    taught = [material.cases[index] for step in material.steps for index in step]
    assert len(material.steps) == 5
    assert {case.gold for case in taught} == {"RK3588 支持 int8 吗"}
    assert len(material.line_scores) == len(material.cases)
    assert constructed_first(found, [], windows, 2, SpanSettings()).steps == []


def test_windows_that_name_nothing_twice_are_refused() -> None:
    with pytest.raises(InputError, match="names a thing again"):
        constructed_first([], [], [window("t1-001", ["早", "早上好", "有人吗"])], 2, SpanSettings(constructed=5))
