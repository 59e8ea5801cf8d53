"""How trees, pointer and reader are weighed against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.combining import combined_names
from core.errors import InputError
from scripts.training.combined import fit_combinations
from scripts.training.ranker import crossed
from scripts.training.ranker_data import author, read_windows
from tests.scripts.few_windows import few_windows


def test_each_source_has_weights_of_its_own_and_so_have_both(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    pytest.importorskip("sklearn")
    found, scored = crossed(read_windows([few_windows(tmp_path / "few.jsonl", 4)]), 1)
    right = {case.id: {index: float(grade) for index, grade in enumerate(case.grades)} for case in found}
    rng = np.random.default_rng(1)
    noise = {case.id: dict(enumerate(rng.normal(size=len(case.terms)))) for case in found}
    entries, figures = fit_combinations(found, scored, {"pointer": right, "reader": noise})
    assert [one["sources"] for one in entries] == [["pointer"], ["reader"], ["pointer", "reader"]]
    assert all(one["confidence"]["features"] == list(combined_names(one["sources"])) for one in entries)
    assert figures["pointer"]["first_names_it"] > figures["reader"]["first_names_it"]
    alone = {case.id: right[case.id] for case in found if author(case.id) == author(found[0].id)}
    with pytest.raises(InputError, match="are of 1 authors"):
        fit_combinations(found, scored, {"pointer": alone})
