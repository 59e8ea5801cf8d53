"""The weighted sum of the sources, and what its confidence sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.antecedent_features import asks_for_two
from core.combining import combined_names
from core.ranker import AntecedentRanker
from tests.core.test_ranker import ASKED, SHIPPED


@pytest.mark.parametrize("sources", [["pointer"], ["reader"], ["pointer", "second_pointer", "reader"]])
def test_each_name_tells_one_feature(sources: list[str]) -> None:
    assert len(set(combined_names(sources))) == len(combined_names(sources))


@pytest.mark.parametrize(("weights", "best"), [([1.0, 0.0], 0), ([0.0, 1.0], 3), ([1.0, 100.0], 3)])
def test_the_sources_count_by_their_weights(tmp_path: Path, weights: list[float], best: int) -> None:
    folder = tmp_path / "resolver"
    shutil.copytree(SHIPPED, folder)
    (folder / "pointer.npz").unlink(missing_ok=True)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    names = list(combined_names(["reader"]))
    sure = {"features": names, "mean": [0.0] * len(names), "scale": [1.0] * len(names), "weights": [0.0] * len(names), "bias": 0.0}
    meta["combined"] = [{"sources": ["reader"], "weights": weights, "confidence": sure, "threshold": 0.9, "reply_threshold": 0.5}]
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    ranker = AntecedentRanker.load(folder)
    found = ranker.candidates(ASKED)
    assert found is not None
    read = np.zeros(len(found.terms))
    read[found.shortlist[3]] = 1.0
    assert ranker.rank(found, read).terms[0] == found.terms[found.shortlist[best]]


@pytest.mark.parametrize("question", ["那俩能混着来吗", "两家都有？", "跟它们比呢", "do both of them run on arm?", "are they free"])
def test_questions_about_two_things(question: str) -> None:
    assert asks_for_two(question)


@pytest.mark.parametrize("question", ["它能混着来吗", "两天能到吗", "is it free", "the theory behind it?"])
def test_questions_about_one_thing(question: str) -> None:
    assert not asks_for_two(question)
