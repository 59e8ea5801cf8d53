"""Periodic jobs over restarts and over several processes: from when on a job is due, and how its last run went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.engine import Database, insert_new, upsert
from storage.models import job_runs, job_schedules


@dataclass(frozen=True, slots=True)
class JobRun:
    """The last run of a job. ``ended_at`` None: it runs, or was killed; ``outcome``: one line, "" until it has ended."""

    name: str
    began_at: datetime
    ended_at: datetime | None = None
    outcome: str = ""


class SqlJobRuns:
    """Repository of schedules and runs. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def arm(self, name: str, cron: str) -> datetime:
        """The moment after which the schedule ``cron`` of a job counts: of its last run, or now when the job, or this schedule for it, is new."""
        return await self._database.writer.submit(self._arm, (name, cron))

    async def begin(self, name: str, due_after: datetime) -> bool:
        """Take the run that has become due after ``due_after`` (of :meth:`arm`). False when another process has taken it.

        A run counts from its beginning: one that takes the bot down with it is not tried again at each start.
        """
        return await self._database.writer.submit(self._begin, (name, due_after))

    async def end(self, name: str, outcome: str) -> None:
        """Note how the run that began last has ended; ``outcome``: one line."""
        await self._database.writer.submit(self._end, (name, outcome))

    async def last(self, name: str) -> JobRun | None:
        """The last run, or None before the first."""
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(job_runs).where(job_runs.c.name == name))).first()
            return None if row is None else JobRun(row.name, row.began_at, row.ended_at, row.outcome)

    def _arm(self, connection: Connection, items: Sequence[tuple[str, str]]) -> list[datetime]:
        now, found = self._database.now(), []
        for name, cron in items:
            connection.execute(insert_new(connection.dialect.name, job_schedules), {"name": name, "cron": cron, "due_after": now})
            connection.execute(sa.update(job_schedules).where(job_schedules.c.name == name, job_schedules.c.cron != cron).values(cron=cron, due_after=now))
            found.append(connection.execute(sa.select(job_schedules.c.due_after).where(job_schedules.c.name == name)).scalar_one())
        return found

    def _begin(self, connection: Connection, items: Sequence[tuple[str, datetime]]) -> list[bool]:
        now, taken = self._database.now(), []
        for name, due_after in items:
            first = sa.update(job_schedules).where(job_schedules.c.name == name, job_schedules.c.due_after == due_after).values(due_after=now)
            taken.append(connection.execute(first).rowcount > 0)
            if taken[-1]:
                row = {"name": name, "began_at": now, "ended_at": None, "outcome": ""}
                connection.execute(upsert(connection.dialect.name, job_runs, ["name"], ["began_at", "ended_at", "outcome"]), row)
        return taken

    def _end(self, connection: Connection, items: Sequence[tuple[str, str]]) -> list[None]:
        for name, outcome in items:
            connection.execute(sa.update(job_runs).where(job_runs.c.name == name).values(ended_at=self._database.now(), outcome=outcome))
        return [None] * len(items)
