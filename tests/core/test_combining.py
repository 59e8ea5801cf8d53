"""The choice model beside the weighted sum of the sources."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.antecedent_features import TERM_FEATURES, asks_for_two
from core.combining import CHOICE_BASE, Candidates, choice_features, choice_names, combine, combined_names, corrected
from core.errors import InputError
from core.ranker import AntecedentRanker, choice_file
from core.trees import Trees
from tests.core.test_ranker import ASKED, SHIPPED

SOURCES = ["judge"]


def candidates() -> Candidates:
    ranker = AntecedentRanker.load(SHIPPED)
    found = ranker.candidates(ASKED)
    assert found is not None
    return found


def test_the_features_are_those_that_are_named() -> None:
    found = candidates()
    said = np.linspace(2.0, -1.0, len(found.shortlist))[::-1].copy()
    combined = combine((1.0, 2.0), found.scores[found.shortlist], {"judge": said})
    rows = choice_features(found, combined, {"judge": said})
    column = dict(zip(choice_names(SOURCES), rows.T, strict=True))
    assert rows.shape == (len(said), len(choice_names(SOURCES)))
    assert column["judge"].tolist() == said.tolist()
    assert column["judge_behind"].max() == 0.0
    assert column["judge_place"].tolist() == list(range(len(said)))[::-1]
    assert set(column["judge_best"]) == {said.max()}
    assert column["length"].tolist() == found.rows[found.shortlist, TERM_FEATURES.index("length")].tolist()
    assert column["together_behind"].max() == 0.0


@pytest.mark.parametrize("sources", [["pointer"], ["judge"], ["pointer", "judge"]])
def test_each_name_tells_one_feature(sources: list[str]) -> None:
    for names in (choice_names(sources), combined_names(sources)):
        assert len(set(names)) == len(names)


def test_a_choice_model_corrects_the_sum() -> None:
    found = candidates()
    values = {"judge": np.zeros(len(found.shortlist))}
    sums = combine((1.0, 1.0), found.scores[found.shortlist], values)
    assert corrected(found, sums, values, None) is sums
    place = choice_names(SOURCES).index("trees_place")
    total = corrected(found, sums, values, lambda rows: 100.0 * (rows[:, place] == 1))
    assert int(np.argmax(total)) == int(np.argsort(-found.scores[found.shortlist])[1]), "the second of the trees"
    assert total[0] == pytest.approx(CHOICE_BASE * sums[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped trees, and a choice model that puts the trees' second first where the judge has no opinion."""
    lightgbm = pytest.importorskip("lightgbm")
    folder = tmp_path / "resolver"
    shutil.copytree(SHIPPED, folder)
    (folder / "pointer.npz").unlink(missing_ok=True)
    names = list(combined_names(SOURCES))
    confidence = {"features": names, "mean": [0.0] * len(names), "scale": [1.0] * len(names), "weights": [0.0] * len(names), "bias": 0.0}
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    meta["combined"] = [{"sources": SOURCES, "weights": [0.0, 0.0], "choice": True, "confidence": confidence, "threshold": 0.9, "reply_threshold": 0.5}]
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    rows = np.zeros((240, len(choice_names(SOURCES))))
    rows[:, choice_names(SOURCES).index("trees_place")] = np.arange(240) % 3
    settings = {"objective": "regression", "num_leaves": 4, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    wanted = (np.arange(240) % 3 == 1).astype(float)
    lightgbm.train(settings, lightgbm.Dataset(rows, wanted, feature_name=list(choice_names(SOURCES))), 5).save_model(str(folder / choice_file(SOURCES)))
    return folder


def test_the_choice_model_of_a_folder_ranks(folder: Path) -> None:
    ranker = AntecedentRanker.load(folder)
    found = ranker.candidates(ASKED)
    assert found is not None
    assert ranker.rank(found, [0.0] * len(found.shortlist)).terms[0] == found.terms[found.shortlist[1]]


def test_a_choice_model_that_is_missing_or_of_other_features_is_named(folder: Path) -> None:
    path = folder / choice_file(SOURCES)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("feature_names=score_max", "feature_names=else"), encoding="utf-8")
    with pytest.raises(InputError, match="other features"):
        AntecedentRanker.load(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"choice-judge\.txt: no such file"):
        AntecedentRanker.load(folder)


def test_shipped_choice_models_equal_lightgbm() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    shipped = sorted(SHIPPED.glob("choice-*.txt"))
    assert shipped
    for path in shipped:
        booster = lightgbm.Booster(model_str=path.read_text(encoding="utf-8"))
        rows = np.random.default_rng(1).normal(size=(50, booster.num_feature()))
        np.testing.assert_allclose(Trees(path.read_text(encoding="utf-8"))(rows), booster.predict(rows, raw_score=True), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("question", ["那俩能混着来吗", "两家都有？", "跟它们比呢", "do both of them run on arm?", "are they free"])
def test_questions_about_two_things(question: str) -> None:
    assert asks_for_two(question)


@pytest.mark.parametrize("question", ["它能混着来吗", "两天能到吗", "is it free", "the theory behind it?"])
def test_questions_about_one_thing(question: str) -> None:
    assert not asks_for_two(question)
