"""How trees, pointer and reader are weighed against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from core.antecedent_features import Array
from core.combining import combined_names
from core.errors import InputError
from core.second_reading import SECOND_FEATURES, rest_of
from scripts.training.asked_again import missing, says_all
from scripts.training.combined import fit_combinations
from scripts.training.ranker import crossed
from scripts.training.ranker_data import Case, author, read_windows
from tests.scripts.few_windows import few_windows


def test_each_source_has_weights_of_its_own_and_so_have_both(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    pytest.importorskip("sklearn")
    found, scored = crossed(read_windows([few_windows(tmp_path / "few.jsonl", 4)]), 1)
    right = {case.id: {index: float(grade) for index, grade in enumerate(case.grades)} for case in found}
    rng = np.random.default_rng(1)
    noise = {case.id: dict(enumerate(rng.normal(size=len(case.terms)))) for case in found}

    def read_again(asked: Sequence[tuple[Case, int, Array]]) -> list[Array]:
        return [np.where(lacking(case, first)[rest_of(case.terms, case.terms[first])], 3.0, -3.0) for case, first, _ in asked]

    def lacking(case: Case, first: int) -> NDArray[np.bool_]:
        nothing = not case.resolvable or says_all(case, case.terms[first], int(case.grades[first]))
        return np.zeros(len(case.terms), dtype=bool) if nothing else missing(case, first)

    entries, figures = fit_combinations(found, scored, {"pointer": right, "reader": noise}, read_again)
    assert [one["sources"] for one in entries] == [["pointer"], ["reader"], ["pointer", "reader"]]
    assert all(one["confidence"]["features"] == list(combined_names(one["sources"])) for one in entries)
    assert [one["lacks"]["features"] if one["lacks"] else None for one in entries] == [list(SECOND_FEATURES), None, list(SECOND_FEATURES)]
    assert figures["pointer"]["two_put_in"] > 0
    assert figures["reader"]["two_put_in"] == 0
    assert figures["pointer"]["right"] > figures["pointer"]["pointer_alone"]["first_right"], "what says two things gets both"
    assert figures["pointer"]["first_names_it"] > figures["reader"]["first_names_it"]

    def blind(asked: Sequence[tuple[Case, int, Array]]) -> list[Array]:
        return [np.where(lacking(case, first)[rest_of(case.terms, case.terms[first])], -3.0, 3.0) for case, first, _ in asked]

    entries, figures = fit_combinations(found, scored, {"pointer": right}, blind)
    assert figures["pointer"]["two_put_in"] == 0, "a pointer that never finds what is lacking is never believed"
    assert entries[0]["lacks"]["features"] == list(SECOND_FEATURES)
    alone = {case.id: right[case.id] for case in found if author(case.id) == author(found[0].id)}
    with pytest.raises(InputError, match="are of 1 authors"):
        fit_combinations(found, scored, {"pointer": alone}, read_again)
