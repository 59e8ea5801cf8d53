"""The language model that reads a conversation and points: what it reads, which tokens a name is, and what it changes in the ranking."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.antecedent_features import Scene, terms_of
from core.antecedent_reader import READER_FORMAT, AntecedentReader, TokenPlaces, asked_first, normalised
from core.combining import SHORTLIST, combined_names, shortlist
from core.encoder import Floats
from core.errors import BackendError, InputError
from core.gates.worker import ModelWorker
from core.messages import ContextLine, ConversationKey, Question, RefusalReason
from core.ranker import AntecedentRanker
from core.resolver import EditResolver

SHIPPED = Path(__file__).resolve().parents[2] / "core" / "shipped" / "resolver"
SAID = (("阿杰", "我把yolov8s转成rknn"), ("柚子", "有啥好用的标注工具"), ("七七", "@柚子 X-AnyLabeling，能挂SAM2自动标"), ("柚子", "马上装一个"))
LINES = tuple(ContextLine(who, text, seconds_before=30.0 * (len(SAID) - index)) for index, (who, text) in enumerate(SAID))
REPLIED = tuple(replace(line, is_reply_target=index == 2) for index, line in enumerate(LINES))
ASKED = Question("q", ConversationKey("test", "g"), "柚子", "它能标旋转框不", datetime(2026, 3, 2, tzinfo=UTC), LINES)
SCENE = Scene.of(ASKED.text, ASKED.sender, LINES)
EVEN = np.full(len(LINES), 0.25)


class Spelling:
    """The wire of the reader: a language model whose tokens are characters, and whose states mark those of ``wanted``."""

    decoded_tokens = 0

    def __init__(self, wanted: str, *, fails: bool = False, spells: bool = True) -> None:
        self.wanted, self.fails, self.spells, self.closed = wanted, fails, spells, 0

    def tokenize(self, text: str, *, start: bool = False) -> list[int]:
        return [*([0] if start else []), *map(ord, text)]

    def piece(self, token: int) -> bytes:
        return chr(token).encode() if token and self.spells else b""

    def states(self, tokens: Sequence[int]) -> Floats:
        if self.fails:
            raise BackendError("llama_cpp", "out of memory")
        text = "".join(map(chr, tokens))
        marked = np.zeros((len(tokens), 2), dtype=np.float32)
        marked[:, 1] = 1.0
        at = text.find(self.wanted)
        while at >= 0:
            marked[at : at + len(self.wanted), 0] = 1.0
            at = text.find(self.wanted, at + 1)
        return marked

    def close(self) -> None:
        self.closed += 1


def written(folder: Path, **changed: Any) -> Path:
    """A head that is as sure as the share of a term's tokens that are marked."""
    span = np.zeros((1, 6))
    span[0, 4] = 4.0
    layers = {"span": span, "asked": np.zeros((1, 4)), "out": np.ones((1, 1)), "none": np.ones((1, 1))}
    head = {f"head.{name}.w": values for name, values in layers.items()} | {f"head.{name}.b": np.zeros(1) for name in layers}
    np.savez(folder / "reader.npz", **{"format": np.array(READER_FORMAT), "version": np.array("reader-test"), **head, **changed})
    return folder / "reader.npz"


def reader(folder: Path, wanted: str, **how: Any) -> AntecedentReader:
    return AntecedentReader(Spelling(wanted, **how), written(folder), 2, "resolver/reader.gguf")


@pytest.fixture
def ranker(tmp_path: Path) -> AntecedentRanker:
    """The shipped trees, with a reader that counts a hundred times as much as they do."""
    folder = tmp_path / "resolver"
    shutil.copytree(SHIPPED, folder)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    (folder / "pointer.npz").unlink(missing_ok=True)
    names = list(combined_names(["reader"]))
    weights = [1.0 if name == "reader_first" else 0.0 for name in names]
    confidence = {"features": names, "mean": [0.0] * len(names), "scale": [1.0] * len(names), "weights": weights, "bias": 0.0}
    meta["combined"] = [{"sources": ["reader"], "weights": [0.01, 1.0], "confidence": confidence, "threshold": 0.99, "reply_threshold": 0.5}]
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return AntecedentRanker.load(folder)


@pytest.fixture
async def worker() -> AsyncIterator[ModelWorker]:
    made = ModelWorker()
    yield made
    made.close()


def test_the_question_is_read_before_the_lines_and_after_them() -> None:
    asked = asked_first(SCENE, terms_of(SCENE), EVEN)
    assert asked.text == ("Q: 它能标旋转框不\nA: 我把yolov8s转成rknn Q: 有啥好用的标注工具 B: @Q X-AnyLabeling，能挂SAM2自动标 Q: 马上装一个 Q: 它能标旋转框不 =")
    terms = terms_of(SCENE)
    assert {asked.text[start:end] for _, start, end in asked.terms} == {term.text for term in terms}
    assert [asked.text[start:end] for _, start, end in asked.lines][:2] == ["我把yolov8s转成rknn", "有啥好用的标注工具"]
    assert asked.text[slice(*asked.asked)] == ASKED.text
    assert asked.asked[0] > asked.lines[-1][2]


def test_a_name_that_is_part_of_another_is_not_mixed_up_with_it() -> None:
    scene = Scene.of("它贵不贵", "甲", (ContextLine("小王", "@小王子 你用啥"), ContextLine("小王子", "Qt")))
    assert "A: @B 你用啥" in asked_first(scene, terms_of(scene), np.ones(2)).text


def test_the_message_that_a_question_replies_to_is_read_as_its_quotation() -> None:
    scene = Scene.of(ASKED.text, ASKED.sender, REPLIED)
    assert asked_first(scene, terms_of(scene), EVEN).text.startswith("Q: 「@Q X-AnyLabeling，能挂SAM2自动标」 它能标旋转框不\n")


def test_the_shortlist_is_short_and_best_first() -> None:
    assert shortlist(np.arange(20.0))[:2] == [19, 18]
    assert len(shortlist(np.arange(20.0))) == SHORTLIST


def test_characters_lie_in_the_tokens_that_hold_their_bytes() -> None:
    places = TokenPlaces("用 YOLO跑😀", [b"", "用".encode(), b" Y", b"OLO", "跑".encode(), b"\xf0\x9f", b"\x98\x80"])
    assert places.span(0, 1) == (1, 2)
    assert places.span(2, 6) == (2, 4), "the token of the space holds the first letter"
    assert places.span(7, 8) == (5, 7), "a character of two tokens"
    with pytest.raises(ValueError, match="do not spell"):
        TokenPlaces("用 YOLO", [b"", b"YOLO"])


def test_what_is_marked_is_pointed_at_and_the_unshown_comes_last(tmp_path: Path) -> None:
    terms = terms_of(SCENE)
    points = reader(tmp_path, "X-AnyLabeling").point(SCENE, terms, EVEN)
    assert points is not None
    assert terms[int(np.argmax(points))].text == "X-AnyLabeling"
    long = tuple(ContextLine("七七", f"工具{number}号 ToolKit{number} 不错", seconds_before=30.0 * (20 - number)) for number in range(20))
    scene = Scene.of(ASKED.text, ASKED.sender, long)
    terms = terms_of(scene)
    points = reader(tmp_path, "ToolKit0").point(scene, terms, np.linspace(0.9, 0.1, 20))
    assert points is not None
    (unshown,) = [index for index, term in enumerate(terms) if term.text == "ToolKit19"]
    assert points[unshown] == points.min() < points.max()
    assert reader(tmp_path, "x").point(SCENE, [], EVEN) is None


@pytest.mark.parametrize("question", ["", " ", "\u2581", "\ud800"])
def test_a_question_that_says_nothing_is_read_all_the_same(tmp_path: Path, question: str) -> None:
    scene = Scene.of(question, ASKED.sender, LINES)
    points = reader(tmp_path, "yolov8s").point(scene, terms_of(scene), EVEN)
    assert points is not None
    assert np.isfinite(points).all()


def test_fewer_lines_are_read_where_there_is_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.antecedent_reader.MOST_TOKENS", 80)
    read = reader(tmp_path, "X-AnyLabeling")
    terms = terms_of(SCENE)
    points = read.point(SCENE, terms, np.array([0.1, 0.2, 0.9, 0.3]))
    assert points is not None
    assert terms[int(np.argmax(points))].text == "X-AnyLabeling"
    monkeypatch.setattr("core.antecedent_reader.MOST_TOKENS", 5)
    assert reader(tmp_path, "X-AnyLabeling").point(SCENE, terms, EVEN) is None


def test_states_are_scaled_and_models_that_do_not_spell_fail(tmp_path: Path) -> None:
    states = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32) * 100
    assert (normalised(states) ** 2).mean(axis=1) == pytest.approx(np.ones(5), abs=1e-3)
    read = AntecedentReader(Spelling("x", spells=False), written(tmp_path), 2)
    with pytest.raises(BackendError, match="do not spell"):
        read.point(SCENE, terms_of(SCENE), EVEN)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": np.array(99)}, "another form"),
        ({"head.span.w": np.zeros((1, 5))}, "not for states of 2"),
        ({"head.out.b": np.zeros(3)}, "not for states"),
        ({"version": None}, "cannot be read"),
    ],
)
def test_a_head_of_another_form_is_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"reader\.npz.*{said}"):
        AntecedentReader(Spelling("x"), written(tmp_path, **changed), 2)


@pytest.mark.parametrize("wanted", ["X-AnyLabeling", "yolov8s"])
async def test_the_reader_decides_between_the_rankers_candidates(tmp_path: Path, ranker: AntecedentRanker, worker: ModelWorker, wanted: str) -> None:
    resolution = await EditResolver(ranker, worker, 0.5, reader(tmp_path, wanted)).resolve(ASKED)
    assert resolution.rewrite is not None
    assert wanted in resolution.rewrite
    assert resolution.adapter == "resolver/reader.gguf"


async def test_a_reader_that_is_not_convinced_keeps_the_question_as_it_is(tmp_path: Path, ranker: AntecedentRanker, worker: ModelWorker) -> None:
    resolution = await EditResolver(ranker, worker, reader=reader(tmp_path, "nothing like that")).resolve(ASKED)
    assert resolution.rewrite is None
    assert resolution.candidate is not None


async def test_a_reply_has_a_threshold_of_its_own(tmp_path: Path, ranker: AntecedentRanker, worker: ModelWorker) -> None:
    resolver = EditResolver(ranker, worker, reader=reader(tmp_path, "X-AnyLabeling"))
    assert (await resolver.resolve(ASKED)).reason is RefusalReason.UNSURE
    resolved = await resolver.resolve(replace(ASKED, context=REPLIED))
    assert resolved.rewrite is not None
    assert "X-AnyLabeling" in resolved.rewrite


@pytest.mark.parametrize("quoted", ["[图片]", "[表情]", "[文件] 结果.zip", "我也在看"])
async def test_a_reply_to_what_does_not_name_the_term_is_no_surer_than_others(tmp_path: Path, ranker: AntecedentRanker, worker: ModelWorker, quoted: str) -> None:
    context = (*LINES, ContextLine("阿杰", quoted, seconds_before=10.0, is_reply_target=True))
    resolved = await EditResolver(ranker, worker, reader=reader(tmp_path, "X-AnyLabeling")).resolve(replace(ASKED, context=context))
    assert resolved.candidate is not None
    assert "X-AnyLabeling" in resolved.candidate
    assert resolved.reason is RefusalReason.UNSURE


async def test_while_the_reader_fails_the_ranker_decides_alone(tmp_path: Path, ranker: AntecedentRanker, worker: ModelWorker) -> None:
    model = Spelling("yolov8s", fails=True)
    read = AntecedentReader(model, written(tmp_path), 2)
    resolver = EditResolver(ranker, worker, 0.0, read)
    alone = await EditResolver(ranker, worker, 0.0).resolve(ASKED)
    resolution = await resolver.resolve(ASKED)
    assert (resolution.rewrite, resolution.adapter) == (alone.rewrite, "")
    await resolver.close()
    await resolver.close()
    assert model.closed == 1
    with pytest.raises(BackendError, match="closed"):
        read.point(SCENE, terms_of(SCENE), EVEN)
    assert (await resolver.resolve(ASKED)).rewrite == alone.rewrite
