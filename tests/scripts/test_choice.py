"""What the choice model learns from, and that what it has learnt can be served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.antecedents import Term
from core.combining import choice_names, combined_names
from core.trees import Trees
from scripts.training.choice import Lesson, fit_choice, scorer, worth
from scripts.training.combined import fit_combinations
from scripts.training.ranker import crossed
from scripts.training.ranker_data import Case, cases, read_windows
from tests.scripts.few_windows import few_windows

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


@pytest.mark.parametrize("together", [False, True])
def test_each_source_has_weights_of_its_own_and_both_where_wanted(tmp_path: Path, together: bool) -> None:
    pytest.importorskip("lightgbm")
    pytest.importorskip("sklearn")
    found, scored = crossed(read_windows([few_windows(tmp_path / "few.jsonl", 4)]), 1)
    right = {case.id: {index: float(grade) for index, grade in enumerate(case.grades)} for case in found}
    rng = np.random.default_rng(1)
    noise = {case.id: dict(enumerate(rng.normal(size=len(case.terms)))) for case in found}
    entries, figures, models = fit_combinations(found, scored, {"pointer": right, "judge": noise}, together)
    assert [one["sources"] for one in entries] == [["pointer"], ["judge"], *([["pointer", "judge"]] if together else [])]
    assert all(one["confidence"]["features"] == list(combined_names(one["sources"])) for one in entries)
    assert not models, "so few questions teach no choice"
    assert not any(one["choice"] for one in entries)
    assert figures["pointer"]["first_names_it"] > figures["judge"]["first_names_it"]
