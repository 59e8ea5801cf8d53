"""The pipeline on a real database, with gates and resolvers that are plain functions of the text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.bus import EventBus
from core.errors import BackendError
from core.events import MessageStored, QuestionResolved
from core.merger import Merger
from core.messages import Message, Question, Resolution, Verdict
from core.pipeline import Pipeline, PipelineSettings
from core.question_filter import QuestionFilter
from storage.engine import Database, open_database
from storage.inbox import SqlInbox
from storage.questions import SqlQuestionLog
from tests.adapters.manual_clock import ManualClock

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def said(number: int, sender: str, text: str, seconds: float, chat: str = "g") -> Message:
    return Message("test", chat, f"m{number}", sender, text, START + timedelta(seconds=seconds), sender_name=sender)


@dataclass
class RuleGate:
    """Needs resolution when the text holds 它; fails while ``broken``."""

    batches: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    broken: bool = False

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        self.batches.append(len(questions))
        if self.broken:
            raise BackendError("rule", "is broken")
        await asyncio.sleep(0)
        self.asked += [question.id for question in questions]
        return [Verdict(0.9 if "它" in question.text else 0.1, 0.5, "rule", "v1") for question in questions]

    async def close(self) -> None: ...


class LastNameResolver:
    """Puts the first word of the first context line in the place of 它."""

    async def resolve(self, question: Question) -> Resolution:
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
