"""The shipped ranker and its reading of LightGBM's text form."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from core.antecedent_features import TERM_FEATURES
from core.antecedents import Term
from core.errors import InputError
from core.messages import ContextLine, ConversationKey, Question
from core.ranker import CONFIDENCE_COLUMNS, CONFIDENCE_FEATURES, AntecedentRanker, confidence_features
from core.trees import Trees

SHIPPED = Path(__file__).resolve().parents[2] / "core" / "shipped" / "resolver"


def question(text: str, *context: tuple[str, str], sender: str = "柚子") -> Question:
    lines = tuple(ContextLine(who, said, seconds_before=30.0 * (len(context) - index)) for index, (who, said) in enumerate(context))
    return Question("q", ConversationKey("test", "g"), sender, text, datetime(2026, 3, 2, tzinfo=UTC), lines)


ASKED = question("它能标旋转框不", ("阿杰", "我把yolov8s转成rknn"), ("柚子", "有啥好用的标注工具"), ("七七", "@柚子 X-AnyLabeling，能挂SAM2自动标"), ("柚子", "马上装一个"))


@pytest.mark.parametrize("objective", ["binary", "regression"])
def test_trees_equal_lightgbm(objective: str) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(400, 6))
    rows[rng.random(rows.shape) < 0.2] = np.nan
    labels = (np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 1]) > 0).astype(float)
    settings = {"objective": objective, "num_leaves": 9, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, labels), 25)
    np.testing.assert_allclose(Trees(booster.model_to_string())(rows), booster.predict(rows), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lines", "terms"])
def test_shipped_models_equal_lightgbm(name: str) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    text = (SHIPPED / f"{name}.txt").read_text(encoding="utf-8")
    booster = lightgbm.Booster(model_str=text)
    rows = np.random.default_rng(1).normal(size=(50, booster.num_feature()))
    np.testing.assert_allclose(Trees(text)(rows), booster.predict(rows), rtol=1e-9, atol=1e-12)


def test_the_shipped_ranker_ranks() -> None:
    ranker = AntecedentRanker.load(SHIPPED)
    found = ranker.candidates(ASKED)
    assert found is not None
    ranking = ranker.rank(found)
    assert len(ranking.terms) == len(ranking.shares)
    assert sum(ranking.shares) == pytest.approx(1.0)
    assert list(ranking.shares) == sorted(ranking.shares, reverse=True)
    assert 0.0 <= ranking.confidence <= 1.0


def test_nothing_to_refer_to_gives_no_ranking() -> None:
    ranker = AntecedentRanker.load(SHIPPED)
    assert ranker.candidates(question("它能用吗")) is None
    assert ranker.candidates(question("它能用吗", ("阿杰", "[图片]"))) is None


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"meta\.json"):
        AntecedentRanker.load(tmp_path)


def test_models_for_other_features_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "resolver")
    meta = json.loads((tmp_path / "resolver" / "meta.json").read_text(encoding="utf-8"))
    meta["confidence"]["features"] = meta["confidence"]["features"][1:]
    (tmp_path / "resolver" / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(InputError, match="other features"):
        AntecedentRanker.load(tmp_path / "resolver")


@pytest.mark.parametrize("meta", ['{"format": 1, "version": "old"}', "[]"])
def test_models_of_another_form_are_refused(tmp_path: Path, meta: str) -> None:
    shutil.copytree(SHIPPED, tmp_path / "resolver")
    (tmp_path / "resolver" / "meta.json").write_text(meta, encoding="utf-8")
    with pytest.raises(InputError, match="other features"):
        AntecedentRanker.load(tmp_path / "resolver")


def test_a_file_that_is_no_model_is_refused() -> None:
    with pytest.raises(InputError, match="not a LightGBM text model"):
        Trees("hello", "lines.txt")


def test_of_equal_terms_the_confidence_is_of_the_one_that_is_put_first() -> None:
    terms = [Term(f"t{index}", f"t{index}", "L", [(0, index)]) for index in range(60)]
    length = TERM_FEATURES.index("length")
    for seed in range(40):
        scores = np.random.default_rng(seed).integers(0, 4, 60).astype(float)
        rows = np.zeros((60, len(TERM_FEATURES)))
        rows[:, length] = range(60)
        found = confidence_features(terms, scores, np.ones(1), rows)
        assert found[len(CONFIDENCE_FEATURES) - len(CONFIDENCE_COLUMNS) + CONFIDENCE_COLUMNS.index("length")] == np.argmax(scores)
