"""What a bot does from time to time, by the clock: judging logged questions again, and retraining.

A run that was missed while the bot was down (or the machine asleep) comes once, however many were missed. When the last run began stands in the database, so that of several
bots on one database one takes each run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from bots import retraining
from bots.wiring import Spine
from core.clock import Clock
from core.config import Config
from core.crontab import parse_crontab
from core.errors import DoujieError
from core.ports import Gate
from core.relabel import Pace, Relabeller, RelabelReport, open_relabel_models, uses_serving_gate
from storage.job_runs import SqlJobRuns
from storage.review_filling import fill_review_queue
from storage.verdicts import SqlVerdicts

log = structlog.get_logger(__name__)

Work = Callable[[], Awaitable[str]]
"""A job. Returns its outcome in a line, without members' words."""

#: Judging again rests so many times longer than it works: a quarter of the model's time at most.
REST = 3.0


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    cron: str
    trigger: Any
    work: Work


class PeriodicJobs:
    """Runs jobs by crontab, each at most once at a time. ``clock`` says what has been missed; the waiting itself is real time."""

    def __init__(self, runs: SqlJobRuns, timezone: str, clock: Clock) -> None:
        self._runs, self._clock, self._zone = runs, clock, ZoneInfo(timezone)
        self._scheduler = AsyncIOScheduler(timezone=self._zone, job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1})
        self._jobs: list[_Job] = []
        self._running: set[asyncio.Task[Any]] = set()

    def add(self, name: str, cron: str, work: Work) -> None:
        """A job for :meth:`start`. Raises ValueError for what is no crontab."""
        self._jobs.append(_Job(name, cron, CronTrigger(timezone=self._zone, **parse_crontab(cron).keywords), work))

    async def start(self) -> None:
        """Begin to wait; what was missed since the last run of a job runs now. Raises StorageError."""
        self._scheduler.start()
        for job in self._jobs:
            moment = self._next(job, await self._runs.arm(job.name, job.cron))
            missed = moment <= self._clock.now()
            self._scheduler.add_job(self._run, job.trigger, [job], id=job.name, next_run_time=datetime.now(UTC) if missed else moment)
            log.info("job_scheduled", job=job.name, cron=job.cron, missed=missed, next_run=moment.isoformat())

    async def stop(self) -> None:
        """Cancel what runs, and wait for its end. Idempotent."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _next(self, job: _Job, after: datetime) -> datetime:
        moment: datetime = job.trigger.get_next_fire_time(after, self._clock.now())
        return moment

    async def _run(self, job: _Job) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            due_after = await self._runs.arm(job.name, job.cron)
            if self._next(job, due_after) <= self._clock.now() and await self._runs.begin(job.name, due_after):
                await self._work(job)
        except DoujieError as error:
            log.warning("job_not_run", job=job.name, problem=str(error))
        except asyncio.CancelledError:
            log.info("job_stopped", job=job.name)  # the scheduler would report a cancelled job as a defect, with its trace
        finally:
            self._running.discard(task)

    async def _work(self, job: _Job) -> None:
        log.info("job_begins", job=job.name)
        outcome = "stopped with the bot"
        try:
            outcome = await job.work()
            log.info("job_ended", job=job.name, outcome=outcome)
        except DoujieError as error:
            outcome = f"failed: {error}"
            log.warning("job_failed", job=job.name, problem=str(error))
        except Exception as error:  # whatever a job breaks, the bot goes on
            outcome = f"failed: {type(error).__name__}"
            log.error("job_failed", job=job.name, error=type(error).__name__)
            log.debug("job_failed_detail", job=job.name, detail=str(error))
        finally:
            ending = asyncio.ensure_future(self._runs.end(job.name, outcome))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:  # the bot stops just now: how the job ended is kept all the same
                await ending
                raise


def periodic_jobs(config: Config, spine: Spine, clock: Clock) -> PeriodicJobs:
    """The jobs that the config switches on."""
    jobs = PeriodicJobs(SqlJobRuns(spine.database), config.bot.timezone, clock)
    if config.relabel.enabled:
        jobs.add("relabel", config.relabel.cron, lambda: relabel(config, spine, clock))
    if config.relabel.cycle_cron:
        jobs.add("cycle", config.relabel.cycle_cron, lambda: retraining.run(retraining.command_of(config)))
    return jobs


async def relabel(config: Config, spine: Spine, clock: Clock) -> str:
    """Judge again, and fill the review queue. A model of its own shares the thread of the live models, so that the two never compete for the processor."""
    section = config.relabel
    since = clock.now() - timedelta(days=section.days)
    report: RelabelReport | None = None
    if uses_serving_gate(config):
        if spine.models.gate is not None:
            report = await _judge_again(spine.models.gate, config, spine, clock, since)
    else:
        models = await open_relabel_models(config, spine.models.worker)
        try:
            assert models.gate is not None
            report = await _judge_again(models.gate, config, spine, clock, since)
        finally:
            await models.close()
    filled = await fill_review_queue(spine.database, since, section.queue_size)
    judged = "nothing judged: there is no gate" if report is None else report.summary
    return f"{judged}; {filled.added} newly queued, {filled.size} in the queue"


async def _judge_again(gate: Gate, config: Config, spine: Spine, clock: Clock, since: datetime) -> RelabelReport:
    def busy() -> bool:
        waiting = spine.pipeline.waiting
        return bool(waiting["gate"] or waiting["resolver"])

    return await Relabeller(gate, SqlVerdicts(spine.database), Pace(together=1, rest=REST, busy=busy), clock).run(since, config.relabel.limit)
