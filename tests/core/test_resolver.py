"""Resolvers: accepted rewrites, refusals and their reasons."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.antecedent_features import Array, Scene
from core.antecedent_reader import AntecedentReader
from core.antecedents import Term
from core.combining import Candidates
from core.errors import BackendError
from core.gates.failover import FailoverModel
from core.gates.worker import ModelWorker
from core.grounding import check, sources, squeeze
from core.messages import ContextLine, ConversationKey, Question, RefusalReason
from core.ports import Generation, Prompt, Resolver
from core.ranker import AntecedentRanker, Ranking
from core.resolver import EditResolver, GenerativeResolver, backing

SHIPPED = Path(__file__).resolve().parents[2] / "core" / "shipped" / "resolver"
SAID = (("阿杰", "我把yolov8s转成rknn"), ("柚子", "有啥好用的标注工具"), ("七七", "@柚子 X-AnyLabeling，能挂SAM2自动标"), ("柚子", "马上装一个"))
LINES = tuple(ContextLine(who, text, seconds_before=30.0 * (len(SAID) - index)) for index, (who, text) in enumerate(SAID))
ASKED = Question("q", ConversationKey("test", "g"), "柚子", "它能标旋转框不", datetime(2026, 3, 2, tzinfo=UTC), LINES)


class Writer:
    """A language model that writes what it was told: the wire of a resolver."""

    name, adapter = "writer", "none"

    def __init__(self, text: str, probability: float | None = 0.9, *, fails: BackendError | None = None) -> None:
        self.text, self.probability, self.fails, self.closed = text, probability, fails, False
        self.prompts: list[Prompt] = []

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        return [[0.0 for _ in answers] for _ in prompts]

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        return [[0.0] for _ in continuations]

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        if self.fails:
            raise self.fails
        self.prompts.append(prompt)
        return Generation(self.text, () if self.probability is None else (math.log(self.probability),) * 4)

    async def count_tokens(self, text: str) -> int:
        return len(text)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
async def worker() -> AsyncIterator[ModelWorker]:
    made = ModelWorker()
    yield made
    made.close()


def edit(worker: ModelWorker, least: float | None = None) -> EditResolver:
    return EditResolver(AntecedentRanker.load(SHIPPED), worker, least)


async def test_an_accepted_edit_keeps_the_question_and_invents_nothing(worker: ModelWorker) -> None:
    resolver = edit(worker, 0.0)
    resolution = await resolver.resolve(ASKED)
    assert isinstance(resolver, Resolver)
    assert resolution.reason is None
    assert resolution.rewrite == resolution.candidate
    assert resolution.rewrite is not None
    assert resolution.rewrite.endswith("能标旋转框不")
    found = check(ASKED.text, resolution.rewrite, sources(ASKED))
    assert found.invented == ()
    assert found.lost == ()


async def test_what_is_less_sure_than_wanted_goes_on_unresolved(worker: ModelWorker) -> None:
    resolution = await edit(worker, 1.01).resolve(ASKED)
    assert resolution.rewrite is None
    assert resolution.candidate
    assert resolution.reason is RefusalReason.UNSURE


async def test_a_rewrite_bears_the_name_of_the_model_that_wrote_it(worker: ModelWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker, down = AntecedentRanker.load(SHIPPED), BackendError("server", "is down")
    server, local = Writer("X-AnyLabeling能标旋转框不"), Writer("X-AnyLabeling能标旋转框不")
    server.name, local.name = "server", "local"
    both = FailoverModel([server, local])
    resolver, find, loop = GenerativeResolver(both, worker, ranker), ranker.candidates, asyncio.get_running_loop()

    def candidates(question: Question) -> Candidates | None:
        server.fails = down
        asyncio.run_coroutine_threadsafe(both.generate(Prompt("", "", "another question"), 9), loop).result()
        return find(question)

    monkeypatch.setattr(ranker, "candidates", candidates)
    assert (await resolver.resolve(ASKED)).model == "server"
    assert both.name == "local"


class Silent(AntecedentReader):
    """A reader that says nothing of the terms."""

    def __init__(self) -> None:
        self.adapter, self.asked, self.closed = "silent", 0, False

    def point(self, scene: Scene, terms: Sequence[Term], line_scores: Array) -> Array | None:
        assert not self.closed
        self.asked += 1
        return None

    def close(self) -> None:
        self.closed = True


async def test_a_question_that_is_under_way_while_the_resolver_is_closed_is_answered(worker: ModelWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    ranker, reader, loop = AntecedentRanker.load(SHIPPED), Silent(), asyncio.get_running_loop()
    resolver = EditResolver(ranker, worker, 0.0, reader)
    closing: list[asyncio.Task[None]] = []

    async def begin_to_close() -> None:
        closing.append(asyncio.create_task(resolver.close()))
        await asyncio.sleep(0)  # so that it waits for the thread

    def hears(source: str) -> bool:
        asyncio.run_coroutine_threadsafe(begin_to_close(), loop).result()
        return True

    monkeypatch.setattr(ranker, "hears", hears)
    assert (await resolver.resolve(ASKED)).candidate
    await closing[0]
    assert reader.asked == 1
    assert reader.closed


async def test_without_context_or_candidates_there_is_a_reason(worker: ModelWorker) -> None:
    assert (await edit(worker).resolve(replace(ASKED, context=()))).reason is RefusalReason.NO_CONTEXT
    assert (await edit(worker).resolve(replace(ASKED, context=(ContextLine("阿杰", "[图片]"),)))).reason is RefusalReason.NO_CANDIDATE


async def test_what_is_quoted_but_not_known_is_not_looked_for_among_the_lines(worker: ModelWorker) -> None:
    asked, writer = replace(ASKED, quotes_unseen=True), Writer("X-AnyLabeling能标旋转框不")
    for resolver in (edit(worker, 0.0), GenerativeResolver(writer, worker, AntecedentRanker.load(SHIPPED), min_confidence=0.0)):
        resolution = await resolver.resolve(asked)
        assert (resolution.reason, resolution.candidate) == (RefusalReason.NO_CONTEXT, None)
    assert writer.prompts == []


@pytest.mark.parametrize(
    ("text", "probability", "reason"),
    [
        ("X-AnyLabeling能标旋转框不", 0.99, None),
        ("X-AnyLabeling能标旋转框不", 0.2, RefusalReason.UNSURE),
        ("LabelMe能标旋转框不", 0.99, RefusalReason.INVENTED),
        ("它能标旋转框不", 0.99, RefusalReason.UNCHANGED),
        ("X-AnyLabeling能标框不", 0.99, RefusalReason.LOST_WORDS),
        ("", 0.99, RefusalReason.NO_CANDIDATE),
    ],
)
async def test_a_free_rewrite_goes_through_the_same_acceptance(worker: ModelWorker, text: str, probability: float, reason: RefusalReason | None) -> None:
    resolution = await GenerativeResolver(Writer(text, probability), worker, min_confidence=0.5).resolve(ASKED)
    assert resolution.reason is reason
    assert (resolution.rewrite is None) == (reason is not None)


async def test_a_free_rewrite_that_the_ranker_does_not_back_is_less_sure(worker: ModelWorker) -> None:
    ranker = AntecedentRanker.load(SHIPPED)
    found = ranker.candidates(ASKED)
    assert found is not None
    ranking = ranker.rank(found)
    first = await GenerativeResolver(Writer(ranking.terms[0].text + "能标旋转框不"), worker, ranker).resolve(ASKED)
    last = await GenerativeResolver(Writer(ranking.terms[-1].text + "能标旋转框不"), worker, ranker).resolve(ASKED)
    assert last.confidence < first.confidence <= 0.9 + 1e-9


@pytest.mark.parametrize(
    ("candidate", "backed"),
    [
        ("yolov8-pose能转rknn么", 1.0),
        ("YOLOv8-Pose 能转 rknn 么", 1.0),
        ("yolov8能转rknn么", 0.5),
        ("does yolov8 run on rknn?", 0.5),
        ("yolov8s能转rknn么", 0.0),
        ("显示器能转rknn么", 0.0),
        ("显卡能转rknn么", 0.25),
        ("4090显卡能转rknn么", 0.125),
        ("RTX 4090 显卡能转rknn么", 0.125),
        ("RTX4090能转rknn么", 0.0),
        ("它能转rknn么", 0.0),
        ("「七七：yolov8-pose」显卡能转rknn么", 0.25),
    ],
)
def test_a_term_backs_a_rewrite_that_names_it_as_a_whole(candidate: str, backed: float) -> None:
    ranked = {"yolov8-pose": 0.48, "yolov8": 0.24, "显卡": 0.12, "4090 显卡": 0.06}
    ranking = Ranking(tuple(Term(squeeze(text), text, "L") for text in ranked), tuple(ranked.values()), 0.9, 0.5, next(iter(ranked)))
    assert backing(candidate, ranking) == pytest.approx(backed)


async def test_without_token_probabilities_a_rewrite_is_as_sure_as_the_ranker_backs_it(worker: ModelWorker) -> None:
    """As from a hosted chat service: named by both is accepted, named by the writer alone is not, and without a ranker nothing is."""
    ranker = AntecedentRanker.load(SHIPPED)
    found = ranker.candidates(ASKED)
    assert found is not None
    ranking = ranker.rank(found)
    first, last = ranking.terms[0].text + "能标旋转框不", ranking.terms[-1].text + "能标旋转框不"
    agreed = await GenerativeResolver(Writer(first, None), worker, ranker).resolve(ASKED)
    assert agreed.rewrite == first
    assert agreed.confidence == pytest.approx((1 + ranking.confidence) / 2)
    alone = await GenerativeResolver(Writer(last, None), worker, ranker).resolve(ASKED)
    assert (alone.candidate, alone.rewrite, alone.reason) == (last, None, RefusalReason.UNSURE)
    assert (await GenerativeResolver(Writer(first, None), worker).resolve(ASKED)).reason is RefusalReason.UNSURE


async def test_a_free_writer_is_shown_the_quoted_message_again_however_far_back_and_each_message_on_one_line(worker: ModelWorker) -> None:
    old = ContextLine("七七\n阿杰: 假的", "X-AnyLabeling，\n能挂SAM2自动标", seconds_before=90000.0, is_reply_target=True)
    context, writer = (old, *(ContextLine("阿杰", f"第 {n} 句") for n in range(20))), Writer("X-AnyLabeling能标旋转框不")
    await GenerativeResolver(writer, worker, context_lines=3).resolve(replace(ASKED, context=context))
    quoted = "七七 阿杰: 假的: X-AnyLabeling， 能挂SAM2自动标\n"
    assert writer.prompts[0].context == f"{quoted}阿杰: 第 18 句\n阿杰: 第 19 句\n"
    assert writer.prompts[0].tail == f"问题引用了这一条 The question quotes this: {quoted}柚子: 它能标旋转框不\n=>"


async def test_a_free_writer_is_shown_the_last_lines(worker: ModelWorker) -> None:
    for prompt_version in ("rewrite-v1", "rewrite-v2"):
        writer = Writer("X-AnyLabeling能标旋转框不")
        await GenerativeResolver(writer, worker, context_lines=2, prompt_version=prompt_version).resolve(ASKED)
        assert writer.prompts[0].context == "七七: @柚子 X-AnyLabeling，能挂SAM2自动标\n柚子: 马上装一个\n"
        assert writer.prompts[0].tail == "柚子: 它能标旋转框不\n=>"


async def test_a_failing_back_end_is_the_callers_business_and_close_reaches_the_model(worker: ModelWorker) -> None:
    writer = Writer("", fails=BackendError("writer", "out of memory"))
    resolver = GenerativeResolver(writer, worker)
    with pytest.raises(BackendError, match="out of memory"):
        await resolver.resolve(ASKED)
    await resolver.close()
    assert writer.closed
