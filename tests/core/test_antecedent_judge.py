"""The judge of candidates: what it reads, and what its margins change."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from core.antecedent_features import Scene
from core.antecedent_judge import CANDIDATES, branch, judge_prompt, shortlist
from core.antecedents import Term
from core.combining import combined_names
from core.errors import BackendError
from core.gates.worker import ModelWorker
from core.messages import ContextLine, ConversationKey, Question, RefusalReason
from core.ports import Generation, Prompt
from core.ranker import AntecedentRanker
from core.resolver import EditResolver

SHIPPED = Path(__file__).resolve().parents[2] / "core" / "shipped" / "resolver"
SAID = (("阿杰", "我把yolov8s转成rknn"), ("柚子", "有啥好用的标注工具"), ("七七", "@柚子 X-AnyLabeling，能挂SAM2自动标"), ("柚子", "马上装一个"))
LINES = tuple(ContextLine(who, text, seconds_before=30.0 * (len(SAID) - index)) for index, (who, text) in enumerate(SAID))
REPLIED = tuple(replace(line, is_reply_target=index == 2) for index, line in enumerate(LINES))
ASKED = Question("q", ConversationKey("test", "g"), "柚子", "它能标旋转框不", datetime(2026, 3, 2, tzinfo=UTC), LINES)


class Judge:
    """A language model that says yes to the candidates that hold ``wanted``: the wire of the judge."""

    name, adapter = "judge", "judge.gguf"

    def __init__(self, wanted: str, *, margin: float = 4.0, fails: bool = False) -> None:
        self.wanted, self.margin, self.fails, self.closed = wanted, margin, fails, False
        self.prompts: list[Prompt] = []

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        if self.fails:
            raise BackendError(self.name, "out of memory")
        self.prompts = list(prompts)
        return [[-0.1, -0.1 - self.margin] if self.wanted in prompt.tail else [-0.1 - self.margin, -0.1] for prompt in prompts]

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        return [[0.0] for _ in continuations]

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        return Generation("", ())

    async def count_tokens(self, text: str) -> int:
        return len(text)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def ranker(tmp_path: Path) -> AntecedentRanker:
    """The shipped trees, with a judge that counts a hundred times as much as they do."""
    folder = tmp_path / "resolver"
    shutil.copytree(SHIPPED, folder)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    (folder / "pointer.npz").unlink(missing_ok=True)
    names = list(combined_names(["judge"]))
    weights = [1.0 if name == "judge_first" else 0.0 for name in names]
    confidence = {"features": names, "mean": [0.0] * len(names), "scale": [1.0] * len(names), "weights": weights, "bias": 0.0}
    meta["combined"] = [{"sources": ["judge"], "weights": [0.01, 1.0], "confidence": confidence, "threshold": 0.9, "reply_threshold": 0.5}]
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return AntecedentRanker.load(folder)


@pytest.fixture
async def worker() -> AsyncIterator[ModelWorker]:
    made = ModelWorker()
    yield made
    made.close()


def test_members_become_letters_and_the_asker_is_q() -> None:
    scene = Scene.of("「七七：X-AnyLabeling」 @七七 它能标旋转框不", "柚子", LINES)
    read = judge_prompt(scene, np.array([0.1, 0.2, 0.9, 0.3]))
    assert read == "A: 我把yolov8s转成rknn\nQ: 有啥好用的标注工具\nB: @Q X-AnyLabeling，能挂SAM2自动标\nQ: 马上装一个\nQ: 「X-AnyLabeling」@B 它能标旋转框不\n"


def test_only_the_likeliest_lines_are_read_in_the_order_of_time() -> None:
    read = judge_prompt(Scene.of(ASKED.text, ASKED.sender, LINES), np.array([0.5, 0.1, 0.9, 0.2]), lines=2)
    assert [line[:2] for line in read.splitlines()] == ["A:", "B:", "Q:"]


def test_a_name_that_is_part_of_another_is_not_mixed_up_with_it() -> None:
    lines = (ContextLine("小王", "@小王子 你用啥"), ContextLine("小王子", "Qt"))
    assert judge_prompt(Scene.of("它贵不贵", "甲", lines), np.ones(2)).splitlines()[0] == "A: @B 你用啥"


def test_the_shortlist_is_short_and_best_first_and_branches_are_one_line() -> None:
    assert shortlist(np.arange(20.0))[:2] == [19, 18]
    assert len(shortlist(np.arange(20.0))) == CANDIDATES
    assert branch(Term("x", "X-Any\nLabeling " + "v" * 80, "L")) == "=X-Any Labeling " + "v" * 25 + "?"


def test_the_message_that_a_question_replies_to_is_read_as_its_quotation() -> None:
    scene = Scene.of(ASKED.text, ASKED.sender, REPLIED)
    assert (scene.quoted_sender, scene.question) == ("七七", ASKED.text)
    assert judge_prompt(scene, np.ones(4)).splitlines()[-1] == "Q: 「@Q X-AnyLabeling，能挂SAM2自动标」它能标旋转框不"


async def test_a_reply_has_a_threshold_of_its_own(ranker: AntecedentRanker, worker: ModelWorker) -> None:
    judge = Judge("X-AnyLabeling", margin=1.5)
    assert (await EditResolver(ranker, worker, judge=judge).resolve(ASKED)).reason is RefusalReason.UNSURE
    resolved = await EditResolver(ranker, worker, judge=judge).resolve(replace(ASKED, context=REPLIED))
    assert resolved.rewrite is not None
    assert "X-AnyLabeling" in resolved.rewrite


@pytest.mark.parametrize("quoted", ["[图片]", "[表情]", "[文件] 结果.zip", "我也在看"])
async def test_a_reply_to_what_does_not_name_the_term_is_no_surer_than_others(ranker: AntecedentRanker, worker: ModelWorker, quoted: str) -> None:
    context = (*LINES, ContextLine("阿杰", quoted, seconds_before=10.0, is_reply_target=True))
    resolved = await EditResolver(ranker, worker, judge=Judge("X-AnyLabeling", margin=1.5)).resolve(replace(ASKED, context=context))
    assert resolved.candidate is not None
    assert "X-AnyLabeling" in resolved.candidate
    assert resolved.reason is RefusalReason.UNSURE


@pytest.mark.parametrize("wanted", ["X-AnyLabeling", "yolov8s"])
async def test_the_judge_decides_between_the_rankers_candidates(ranker: AntecedentRanker, worker: ModelWorker, wanted: str) -> None:
    judge = Judge(wanted)
    resolution = await EditResolver(ranker, worker, judge=judge).resolve(ASKED)
    assert resolution.rewrite is not None
    assert wanted in resolution.rewrite
    assert resolution.adapter == "judge.gguf"
    assert resolution.confidence == pytest.approx(1 / (1 + np.exp(-4.0)))
    assert len({(prompt.fixed, prompt.context) for prompt in judge.prompts}) == 1  # one prefix for all branches


async def test_a_judge_that_is_not_convinced_keeps_the_question_as_it_is(ranker: AntecedentRanker, worker: ModelWorker) -> None:
    resolution = await EditResolver(ranker, worker, judge=Judge("nothing like that")).resolve(ASKED)
    assert resolution.rewrite is None
    assert resolution.candidate is not None


async def test_while_the_judge_fails_the_ranker_decides_alone(ranker: AntecedentRanker, worker: ModelWorker) -> None:
    judge = Judge("yolov8s", fails=True)
    resolver = EditResolver(ranker, worker, 0.0, judge)
    alone = await EditResolver(ranker, worker, 0.0).resolve(ASKED)
    assert (await resolver.resolve(ASKED)).rewrite == alone.rewrite
    await resolver.close()
    assert judge.closed
