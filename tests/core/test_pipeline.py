"""The pipeline on a real database, with gates and resolvers that are plain functions of the text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.bus import EventBus
from core.errors import BackendError, StorageError
from core.events import MessageStored, QuestionJudged, QuestionResolved
from core.merger import Merger
from core.messages import Message, Question, Recall, RefusalReason, Resolution, Verdict
from core.pipeline import Pipeline, PipelineSettings
from core.question_filter import QuestionFilter
from storage.engine import Database, open_database
from storage.inbox import SqlInbox
from storage.questions import LoggedQuestion, SqlQuestionLog
from tests.adapters.manual_clock import ManualClock, eventually

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def said(number: int, sender: str, text: str, seconds: float, chat: str = "g") -> Message:
    return Message("test", chat, f"m{number}", sender, text, START + timedelta(seconds=seconds), sender_name=sender)


@dataclass
class RuleGate:
    """Needs resolution when the text holds 它; fails while ``broken``; answers while ``open``."""

    batches: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    broken: bool = False
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        self.batches.append(len(questions))
        if self.broken:
            raise BackendError("rule", "is broken")
        await asyncio.sleep(0)
        await self.open.wait()
        self.asked += [question.id for question in questions]
        return [Verdict(0.9 if "它" in question.text else 0.1, 0.5, "rule", "v1") for question in questions]

    async def close(self) -> None: ...


class LastNameResolver:
    """Puts the first word of the first context line in the place of 它. ``meanwhile``: awaited before that."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def resolve(self, question: Question) -> Resolution:
        if self.meanwhile is not None:
            await self.meanwhile()
        rewrite = question.text.replace("它", question.context[0].text.split()[0])
        return Resolution(rewrite, rewrite, 0.9, "rule", "v1")

    async def close(self) -> None: ...


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await open_database(f"sqlite:///{tmp_path / 'doujie.db'}")
    yield opened
    await opened.close()


@dataclass
class Running:
    pipeline: Pipeline
    inbox: SqlInbox
    log: SqlQuestionLog
    bus: EventBus
    resolved: list[QuestionResolved]

    async def say(self, *messages: Message) -> None:
        for message in await self.inbox.add(messages):
            await self.bus.publish(MessageStored(message))

    async def stop(self) -> None:
        await self.pipeline.stop()
        await self.bus.stop()


async def make(database: Database, gate: RuleGate | None, clock: ManualClock | None = None, **settings: Any) -> Running:
    bus, inbox, log = EventBus(), SqlInbox(database), SqlQuestionLog(database)
    resolver = LastNameResolver() if gate else None
    pipeline = Pipeline(bus, inbox, log, Merger(), QuestionFilter(), gate, resolver, PipelineSettings(**settings), clock)
    resolved: list[QuestionResolved] = []

    async def keep(event: QuestionResolved) -> None:
        resolved.append(event)

    bus.subscribe(QuestionResolved, keep)
    await bus.start()
    await pipeline.start(live=clock is not None)
    return Running(pipeline, inbox, log, bus, resolved)


async def test_a_question_is_merged_judged_and_resolved(database: Database) -> None:
    run = await make(database, RuleGate())
    await run.say(said(1, "张三", "mmpose 支持移动端部署么？", 0), said(2, "李四", "搭车问一下", 30), said(3, "李四", "怎么把它部署到 TX2？", 35))
    await run.pipeline.flush()
    rows = [row async for row in run.log.export_rows()]
    assert [(row.question.text, row.verdict.needs_resolution if row.verdict else None) for row in rows] == [
        ("mmpose 支持移动端部署么？", False),
        ("搭车问一下 怎么把它部署到 TX2？", True),
    ]
    assert rows[1].resolution is not None
    assert rows[1].resolution.rewrite == "搭车问一下 怎么把mmpose部署到 TX2？"
    assert rows[1].question.message_ids == ("m2", "m3")
    assert [line.text for line in rows[1].question.context] == ["mmpose 支持移动端部署么？"]
    assert len(run.resolved) == 2
    await run.stop()


async def test_without_a_gate_questions_wait_in_the_log_and_a_later_run_judges_them_once(database: Database) -> None:
    first = await make(database, None)
    await first.say(said(1, "a", "ncnn 支持 int8 吗", 0), said(2, "b", "它快吗", 100))
    await first.pipeline.flush()
    assert first.pipeline.counts.judged == 0
    await first.stop()
    gate = RuleGate()
    second = await make(database, gate)
    await second.pipeline.drain()
    await second.stop()
    third = await make(database, gate)
    await third.pipeline.drain()
    await third.stop()
    assert sorted(gate.asked) == ["test:g:m1", "test:g:m2"]


async def test_neither_a_live_start_nor_what_is_asked_after_it_waits_for_all_that_was_left(database: Database) -> None:
    first = await make(database, None)
    await first.say(*(said(number, f"u{number}", f"{number} 号板子怎么刷机？", number * 100.0) for number in range(6)))
    await first.pipeline.flush()
    await first.stop()
    gate, clock = RuleGate(), ManualClock(START + timedelta(seconds=1000))
    gate.open.clear()
    second = await asyncio.wait_for(make(database, gate, clock, queue_size=1, judge_together=1), 5)
    await eventually(lambda: gate.batches)
    await second.say(said(9, "x", "mmpose 支持移动端部署么？", 1000))
    await eventually(lambda: second.pipeline.counts.questions, tick=lambda: clock.advance(10))
    await second.inbox.recall(Recall("test", "g", "m1", START))
    gate.open.set()
    await eventually(lambda: len(gate.asked) > 2)
    assert gate.asked[:3] == ["test:g:m0", "test:g:m9", "test:g:m2"]
    second.pipeline.leave_backlog()
    await second.pipeline.drain()
    await second.stop()
    third = await make(database, gate)
    await third.pipeline.drain()
    await third.stop()
    assert sorted(gate.asked) == [f"test:g:m{number}" for number in (0, 2, 3, 4, 5, 9)]


async def test_a_stop_waits_for_slow_models_only_so_long_and_the_next_start_takes_up_what_is_left(database: Database) -> None:
    gate, clock = RuleGate(), ManualClock(START)
    gate.open.clear()
    first = await make(database, gate, clock)
    await first.say(said(1, "a", "ncnn 支持 int8 吗", 0), said(2, "b", "它快吗", 100))
    await eventually(lambda: gate.batches, tick=lambda: clock.advance(10))
    assert not await first.pipeline.drain(0.01)
    await first.stop()
    gate.open.set()
    second = await make(database, gate)
    await second.pipeline.flush()
    await second.stop()
    assert {row.question.text for row in [row async for row in second.log.export_rows()] if row.verdict} == {"ncnn 支持 int8 吗", "它快吗"}


class FailingLog(SqlQuestionLog):
    """Fails once when it is asked for some questions."""

    failures = 1

    async def unfinished(self, among: Collection[str] | None = None) -> list[LoggedQuestion]:
        if among is not None and self.failures:
            self.failures -= 1
            raise StorageError("doujie.db", "is busy", "wait")
        return await super().unfinished(among)


async def test_a_database_that_fails_for_a_moment_leaves_nothing_of_the_backlog_to_the_next_start(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await make(database, None)
    await first.say(*(said(number, f"u{number}", f"{number} 号板子怎么刷机？", number * 100.0) for number in range(3)))
    await first.pipeline.flush()
    await first.stop()
    monkeypatch.setattr("tests.core.test_pipeline.SqlQuestionLog", FailingLog)
    gate, clock = RuleGate(), ManualClock(START + timedelta(seconds=1000))
    second = await make(database, gate, clock, judge_together=1)
    draining = asyncio.create_task(second.pipeline.drain())
    await eventually(draining.done, tick=lambda: clock.advance(1))
    assert gate.asked == ["test:g:m0", "test:g:m1", "test:g:m2"]
    await second.stop()


@pytest.mark.parametrize("steps", [("record_many",) * 3, ("judged",), ("judged", "unfinished"), ("resolved",)])
async def test_a_database_that_fails_for_a_moment_keeps_no_question_until_the_next_start(database: Database, monkeypatch: pytest.MonkeyPatch, steps: tuple[str, ...]) -> None:
    clock = ManualClock(START)
    run = await make(database, RuleGate(), clock)
    for step in steps:
        working = getattr(run.log, step)

        async def busy(*args: Any, step: str = step, working: Callable[..., Awaitable[Any]] = working) -> Any:
            monkeypatch.setattr(run.log, step, working)
            raise StorageError("doujie.db", "is busy", "wait")

        monkeypatch.setattr(run.log, step, busy)
    await run.say(said(1, "a", "ncnn 很快", 0), said(2, "b", "它支持 int8 吗？", 1), said(3, "c", "它能上手机吗？", 2))
    await eventually(lambda: len(run.resolved) == 2, tick=lambda: clock.advance(5))
    assert sorted(event.question.id for event in run.resolved) == ["test:g:m2", "test:g:m3"]
    assert [row.resolution is not None async for row in run.log.export_rows()] == [True, True]
    await run.stop()


async def test_a_database_that_cannot_be_read_for_a_moment_keeps_no_message_from_being_merged(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await make(database, RuleGate())
    reading = run.inbox.history

    async def busy(message: Message, limit: int) -> list[Message]:
        monkeypatch.setattr(run.inbox, "history", reading)
        raise StorageError("doujie.db", "cannot be reached", "start the server")

    monkeypatch.setattr(run.inbox, "history", busy)
    await run.say(said(1, "a", "ncnn 很快", 0), said(2, "b", "它支持 int8 吗？", 1))
    await run.pipeline.flush()
    assert [event.resolution.rewrite for event in run.resolved if event.resolution] == ["ncnn支持 int8 吗？"]
    assert (await run.inbox.unmerged()).messages == ()
    await run.stop()


async def test_a_start_takes_up_the_open_work_of_its_own_platforms_alone(database: Database) -> None:
    """Two processes may share a database: one of them is restarted while the other is in the midst of its work."""
    first = await make(database, None)
    await first.say(said(1, "a", "它支持 int8 吗？", 0))
    await first.pipeline.flush()
    await first.say(said(2, "b", "它快吗？", 100))
    await first.stop()
    gate = RuleGate()
    for platforms in ({"another"}, {"another", "test"}):
        run = await make(database, gate, platforms=frozenset(platforms))
        await run.pipeline.flush()
        await run.stop()
        assert gate.asked == ([] if platforms == {"another"} else ["test:g:m1", "test:g:m2"])


async def test_a_failing_gate_loses_nothing(database: Database) -> None:
    gate = RuleGate(broken=True)
    run = await make(database, gate)
    await run.say(said(1, "a", "ncnn 支持 int8 吗", 0))
    await run.pipeline.flush()
    assert run.pipeline.counts.backend_failures == 1
    await run.stop()
    gate.broken = False
    again = await make(database, gate)
    await again.pipeline.drain()
    assert [row.verdict is not None async for row in again.log.export_rows()] == [True]
    await again.stop()


async def test_questions_that_wait_together_are_judged_together(database: Database) -> None:
    gate = RuleGate()
    run = await make(database, gate, judge_together=8)
    await run.say(*(said(number, f"u{number}", f"{number} 号板子怎么刷机？", number * 0.01) for number in range(30)))
    await run.pipeline.flush()
    assert sum(gate.batches) == 30
    assert max(gate.batches) == 8
    await run.stop()


async def test_a_live_run_closes_utterances_by_its_clock(database: Database) -> None:
    clock = ManualClock(START)
    run = await make(database, RuleGate(), clock)
    await run.say(said(1, "a", "ncnn 支持 int8 吗？", 0))
    await run.pipeline.drain()
    assert run.pipeline.counts.utterances == 0
    for _ in range(60):
        await clock.advance(1.0)
    await run.pipeline.drain()
    assert run.pipeline.counts.judged == 1
    await run.stop()


async def test_a_clock_that_is_set_right_meanwhile_closes_utterances_soon(database: Database) -> None:
    clock = ManualClock(START - timedelta(hours=2))
    run = await make(database, RuleGate(), clock)
    await run.say(said(1, "a", "ncnn 支持 int8 吗？", 0))
    await eventually(lambda: clock.asleep)
    clock._start += timedelta(hours=2)
    await eventually(lambda: run.pipeline.counts.judged or clock.monotonic() > 120, tick=lambda: clock.advance(1))
    assert run.pipeline.counts.judged == 1
    await run.stop()


async def test_a_small_queue_makes_publishers_wait_and_loses_nothing(database: Database) -> None:
    run = await make(database, RuleGate(), queue_size=2, record_together=4, judge_together=2)
    await run.say(*(said(number, f"u{number % 7}", f"问题 {number} 怎么解决？", number * 50.0) for number in range(300)))
    await run.pipeline.flush()
    assert run.pipeline.counts.judged == 300
    await run.stop()


async def test_context_after_a_restart_is_what_was_said_before_it(database: Database) -> None:
    first = await make(database, None)
    texts = [f"第 {number} 句话" for number in range(30)]
    texts[3] = "rknn-toolkit2 出新版了"
    await first.say(*(said(number, f"u{number}", text, number * 100.0) for number, text in enumerate(texts)))
    await first.pipeline.flush()
    await first.stop()
    second = await make(database, None, context_lines=8)
    await second.say(said(99, "x", "@u3 它好装吗？", 3100))
    await second.pipeline.flush()
    question = [row.question async for row in second.log.export_rows()][-1]
    assert len(question.context) == 8
    assert question.context[-1].text == "第 29 句话"
    assert texts[3] in [line.text for line in question.context]
    await second.stop()


async def test_a_question_that_comes_under_another_id_is_asked_judged_and_resolved_once(database: Database) -> None:
    gate = RuleGate()
    run = await make(database, gate)
    original, copy, late = (replace(said(2, "李四", "怎么把它部署到 TX2？", 5), message_id=name) for name in ("m2", "copy", "late"))
    await run.say(said(1, "张三", "mmpose 支持移动端部署么？", 0), original, copy)
    await run.pipeline.flush()
    await run.say(late)
    await run.pipeline.flush()
    assert gate.asked == ["test:g:m1", "test:g:m2"]
    rows = [row.question async for row in run.log.export_rows()]
    assert [(row.text, row.message_ids) for row in rows] == [("mmpose 支持移动端部署么？", ("m1",)), ("怎么把它部署到 TX2？", ("m2", "copy"))]
    assert (await run.inbox.unmerged()).messages == ()
    assert len(run.resolved) == 2
    await run.stop()


@pytest.mark.parametrize("recalled", ["m1", "m2"])
async def test_what_is_recalled_while_a_question_is_being_resolved_comes_back_in_no_rewrite(database: Database, recalled: str) -> None:
    run = await make(database, RuleGate())
    resolver = run.pipeline.resolver
    assert isinstance(resolver, LastNameResolver)
    resolver.meanwhile = partial(run.inbox.recall, Recall("test", "g", recalled, START))
    await run.say(said(1, "张三", "mmpose 支持移动端部署么？", 0), said(2, "李四", "怎么把它部署到 TX2？", 90))
    await run.pipeline.flush()
    told = [event.resolution for event in run.resolved if event.question.id == "test:g:m2"]
    assert [(one.candidate, one.rewrite, one.reason) if one else None for one in told] == [(None, None, RefusalReason.NO_CONTEXT)]
    assert run.pipeline.counts.resolved == 0
    logged = await run.log.get("test:g:m2")
    assert (logged.resolution if logged else None) == (None if recalled == "m2" else told[0])
    await run.stop()


async def test_a_rewrite_without_words_of_what_is_recalled_meanwhile_stays(database: Database) -> None:
    run = await make(database, RuleGate())
    resolver = run.pipeline.resolver
    assert isinstance(resolver, LastNameResolver)
    resolver.meanwhile = partial(run.inbox.recall, Recall("test", "g", "m2", START))
    await run.say(said(1, "张三", "mmpose 支持移动端部署么？", 0), said(2, "王五", "不知道", 80), said(3, "李四", "怎么把它部署到 TX2？", 170))
    await run.pipeline.flush()
    logged = await run.log.get("test:g:m3")
    assert logged is not None
    assert logged.resolution is not None
    assert logged.resolution.rewrite == "怎么把mmpose部署到 TX2？"
    await run.stop()


async def test_what_is_recalled_before_its_question_is_recorded_reaches_no_model(database: Database) -> None:
    """The database has erased it already, and the event that tells so is still on its way."""
    gate = RuleGate()
    run = await make(database, gate)
    await run.say(said(1, "张三", "mmpose 支持移动端部署么？", 0), said(2, "李四", "怎么把它部署到 TX2？", 90), said(3, "王五", "这块板子要多少内存？", 100))
    for message_id in ("m1", "m2"):
        await run.inbox.recall(Recall("test", "g", message_id, START))
    seen: list[QuestionJudged] = []

    async def keep(event: QuestionJudged) -> None:
        seen.append(event)

    run.bus.subscribe(QuestionJudged, keep)
    await run.pipeline.flush()
    assert [(event.question.id, event.question.context) for event in seen] == [("test:g:m3", ())]
    assert run.pipeline.counts.questions == 1
    await run.stop()
