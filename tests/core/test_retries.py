"""Questions whose model fails wait in the log and are judged, once, when it answers again: no restart is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.bus import EventBus
from core.errors import BackendError
from core.events import MessageRecalled, MessageStored
from core.gates.failover import COOL_DOWN_SECONDS, FAILURES_TO_OPEN, FailoverGate, FailoverResolver
from core.gates.limits import PromptTooLongError
from core.merger import Merger
from core.messages import Message, Question, Recall, RefusalReason, Resolution, Verdict
from core.pipeline import Pipeline
from core.question_filter import QuestionFilter
from core.retries import FIRST_WAIT, LONGEST_WAIT, RetrySchedule
from storage.engine import open_database
from storage.inbox import SqlInbox
from storage.questions import SqlQuestionLog
from tests.adapters.manual_clock import ManualClock, eventually

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class Server:
    """A gate and resolver at the end of a wire. ``down``: how it fails; ``poison``: a question that it never takes; ``hangs``: it never answers."""

    def __init__(self) -> None:
        self.down: BackendError | None = None
        self.hangs = False
        self.poison = ""
        self.calls = 0
        self.judged: list[str] = []
        self.resolved: list[str] = []

    async def _work(self, questions: Sequence[Question]) -> None:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.down is not None:
            raise self.down
        if self.poison and any(self.poison in question.text for question in questions):
            raise BackendError("server", "garbage")

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        await self._work(questions)
        self.judged += [question.text for question in questions]
        return [Verdict(0.9 if "它" in question.text else 0.1, 0.5, "server", "v1") for question in questions]

    async def resolve(self, question: Question) -> Resolution:
        await self._work([question])
        self.resolved.append(question.text)
        return Resolution(question.text, question.text, 0.9, "server", "v1")

    async def close(self) -> None: ...


class Running:
    """A pipeline on a real database with ``gate`` and ``resolver``, a clock that only moves by hand."""

    def __init__(self, gate: object, resolver: object | None = None) -> None:
        self.gate, self.resolver, self.clock = gate, resolver, ManualClock(START)

    async def start(self, path: Path) -> Running:
        self.database = await open_database(f"sqlite:///{path}", now=self.clock.now)
        self.bus, self.inbox, self.log = EventBus(), SqlInbox(self.database), SqlQuestionLog(self.database)
        self.pipeline = Pipeline(self.bus, self.inbox, self.log, Merger(), QuestionFilter(), self.gate, self.resolver, clock=self.clock)  # type: ignore[arg-type]
        await self.bus.start()
        await self.pipeline.start(live=False)
        return self

    async def ask(self, *texts: str) -> None:
        messages = [Message("test", "g", text, f"sender of {text}", text, START + timedelta(seconds=100 * number)) for number, text in enumerate(texts)]
        for message in await self.inbox.add(messages):
            await self.bus.publish(MessageStored(message))
        await self.pipeline.flush()

    async def verdicts(self) -> dict[str, bool]:
        return {row.question.text: row.verdict is not None async for row in self.log.export_rows()}

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until the pipeline has come so far, without moving the clock."""
        await eventually(condition)
        await self.pipeline.drain()

    async def stop(self) -> None:
        await self.pipeline.stop()
        await self.bus.stop()
        await self.database.close()


async def test_what_a_dead_server_left_unjudged_is_judged_once_when_it_is_back(tmp_path: Path) -> None:
    server = Server()
    server.down = BackendError("server", "cannot be reached")
    run = await Running(server).start(tmp_path / "db")
    await run.ask("ncnn 支持 int8 吗", "它快吗")
    assert await run.verdicts() == {"ncnn 支持 int8 吗": False, "它快吗": False}
    server.down = None
    await run.clock.advance(FIRST_WAIT - 1)
    assert server.judged == []
    await run.clock.advance(1)
    await run.wait_for(lambda: len(server.judged) == 2)
    assert await run.verdicts() == {"ncnn 支持 int8 吗": True, "它快吗": True}
    await run.clock.advance(10 * LONGEST_WAIT)
    await run.pipeline.drain()
    assert sorted(server.judged) == sorted(("ncnn 支持 int8 吗", "它快吗"))
    await run.stop()


async def test_a_server_that_hangs_stalls_three_calls_and_no_more(tmp_path: Path) -> None:
    """A named back end stands behind a breaker: while it is open, questions are logged at once instead of waiting for the time-out each."""
    server = Server()
    server.hangs = True
    run = Running(server)
    run.gate = FailoverGate([("openai", server)], timeout_seconds=0.01, clock=run.clock)
    await run.start(tmp_path / "db")
    for number in range(FAILURES_TO_OPEN + 20):
        await run.ask(f"第 {number} 块板子怎么刷机？")
    assert server.calls == FAILURES_TO_OPEN
    server.hangs = False
    await run.clock.advance(COOL_DOWN_SECONDS)
    await run.wait_for(lambda: len(server.judged) == FAILURES_TO_OPEN + 20)
    assert len(set(server.judged)) == len(server.judged)
    assert all((await run.verdicts()).values())
    await run.stop()


async def test_a_failed_rewrite_is_made_later_and_the_verdict_is_kept(tmp_path: Path) -> None:
    gate, writer = Server(), Server()
    writer.down = BackendError("server", "HTTP 429: too many calls", retry_after=120.0)
    run = await Running(gate, writer).start(tmp_path / "db")
    await run.ask("ncnn 支持 int8 吗", "它快吗")
    writer.down = None
    await run.clock.advance(119.0)
    assert writer.resolved == []
    await run.clock.advance(1.0)
    await run.wait_for(lambda: writer.resolved == ["它快吗"])
    assert len(gate.judged) == 2
    await run.stop()


async def test_a_question_that_is_too_long_for_the_writer_goes_on_unresolved_and_is_not_asked_again(tmp_path: Path) -> None:
    gate, writer = Server(), Server()
    writer.down = PromptTooLongError("server", 9000, 1024)
    run = await Running(gate, writer).start(tmp_path / "db")
    await run.ask("ncnn 支持 int8 吗", "它快吗")
    await run.clock.advance(10 * LONGEST_WAIT)
    await run.pipeline.drain()
    assert (gate.calls, writer.calls) == (2, 1)
    kept = {row.question.text: row.resolution async for row in run.log.export_rows()}["它快吗"]
    assert kept is not None
    assert (kept.reason, kept.rewrite) == (RefusalReason.BACKEND_FAILED, None)
    await run.stop()


async def test_where_the_writer_finds_a_question_too_long_the_next_resolver_takes_it(tmp_path: Path) -> None:
    writer, ranker = Server(), Server()
    writer.down = PromptTooLongError("server", 9000, 1024)
    run = Running(Server())
    run.resolver = FailoverResolver([("server", writer), ("ranker", ranker)], clock=run.clock)
    await run.start(tmp_path / "db")
    await run.ask("ncnn 支持 int8 吗", "它快吗")
    assert ranker.resolved == ["它快吗"]
    await run.stop()


async def test_a_question_that_no_model_can_take_does_not_hold_up_its_neighbours(tmp_path: Path) -> None:
    server = Server()
    server.poison = "毒"
    run = await Running(server).start(tmp_path / "db")
    await run.ask("这块板子有毒吗？", "怎么刷机？", "怎么散热？")
    await run.clock.advance(FIRST_WAIT)
    await run.wait_for(lambda: len(server.judged) == 2)
    assert await run.verdicts() == {"这块板子有毒吗？": False, "怎么刷机？": True, "怎么散热？": True}
    await eventually(lambda: server.calls == 4)
    await run.stop()


async def test_what_was_recalled_while_it_waited_is_not_sent_anywhere(tmp_path: Path) -> None:
    server = Server()
    server.down = BackendError("server", "cannot be reached")
    run = await Running(server).start(tmp_path / "db")
    await run.ask("我的密码是多少？", "怎么刷机？")
    recall = Recall("test", "g", "我的密码是多少？", START)
    await run.inbox.recall(recall)
    await run.bus.publish(MessageRecalled(recall))
    server.down = None
    await run.clock.advance(FIRST_WAIT)
    await run.wait_for(lambda: len(server.judged) > 0)
    assert server.judged == ["怎么刷机？"]
    await run.stop()


async def test_waits_double_up_to_a_limit_unless_the_back_end_names_one() -> None:
    clock = ManualClock()
    schedule = RetrySchedule(clock)
    waits = []
    for _ in range(7):
        schedule.failed("q", None)
        before = clock.monotonic()
        waiting = asyncio.create_task(schedule.next())
        while not waiting.done():
            await clock.advance(1.0)
        waits.append(clock.monotonic() - before)
    assert waits == [pytest.approx(min(FIRST_WAIT * 2**attempt, LONGEST_WAIT), abs=2.0) for attempt in range(7)]
    schedule.failed("q", 5.0)
    schedule.failed("r", 1.0)
    await clock.advance(1.0)
    assert await schedule.next() == {"r"}
    await clock.advance(4.0)
    assert await schedule.next() == {"q"}
    schedule.succeeded("q")
    assert not schedule.has_failed("q")


async def test_a_week_of_failures_does_not_end_the_schedule() -> None:
    """A power of two beyond the thousandth is no number any more, and the error would end the worker that asks the model."""
    clock = ManualClock()
    schedule = RetrySchedule(clock)
    for _ in range(1100):
        schedule.failed("q", None)
    waiting = asyncio.create_task(schedule.next())
    await eventually(waiting.done, tick=lambda: clock.advance(60.0))
    assert await waiting == {"q"}
    assert clock.monotonic() <= LONGEST_WAIT + 180.0
