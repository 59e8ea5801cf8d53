"""What the choice model learns from, and that what it has learnt can be served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.antecedents import Term
from core.combining import choice_names
from core.trees import Trees
from scripts.training.choice import Lesson, fit_choice, scorer, worth
from scripts.training.ranker_data import Case, cases

WINDOW = {
    "id": "t1-001",
    "messages": [
        {"sender": "甲", "text": "Steam Deck OLED 的屏真香", "at": "2026-03-02T10:00:00+08:00"},
        {"sender": "乙", "text": "我还是 ROG Ally", "at": "2026-03-02T10:00:20+08:00"},
        {"sender": "丙", "text": "@甲 反光厉害不", "at": "2026-03-02T10:00:40+08:00"},
    ],
    "questions": [{"indices": [2], "label": "yes", "gold": "@甲 Steam Deck OLED反光厉害不", "antecedent_indices": [0]}],
}


def case() -> Case:
    (found,) = cases([WINDOW])
    return found


@pytest.mark.parametrize(("term", "expected"), [("Steam Deck OLED", 3), ("Steam Deck OLED 的屏", 2), ("Steam Deck OLED 的屏真香啊兄弟们", 1), ("Steam Deck", 1), ("ROG Ally", 0)])
def test_a_term_is_worth_what_its_rewrite_says(term: str, expected: int) -> None:
    assert worth(case(), Term(term.casefold().replace(" ", ""), term, "L")) == expected


def test_where_nothing_is_meant_nothing_is_worth_anything() -> None:
    assert worth(replace(case(), gold=None), Term("rogally", "ROG Ally", "LL")) == 0


def test_a_choice_is_learnt_and_served() -> None:
    pytest.importorskip("lightgbm")
    assert fit_choice([], ["pointer"], 1, least=0) is None
    assert scorer(None) is None
    rng = np.random.default_rng(1)
    names = choice_names(["pointer"])
    lessons = []
    for _ in range(120):
        rows = rng.normal(size=(6, len(names)))
        lessons.append(Lesson(rows, np.zeros(6), np.where(np.arange(6) == np.argmax(rows[:, names.index("length")]), 3, 0)))
    assert fit_choice(lessons, ["pointer"], 1) is None, "too few to do better than the sum"
    model = fit_choice(lessons, ["pointer"], 1, least=100)
    assert model is not None
    served = Trees(model.model_to_string())
    assert served.names == list(names)
    says = scorer(model)
    assert says is not None
    np.testing.assert_allclose(served(lessons[0].rows), says(lessons[0].rows))
    best = [int(np.argmax(served(one.rows))) == int(np.argmax(one.worth)) for one in lessons]
    assert np.mean(best) > 0.6, "one in six by chance"
