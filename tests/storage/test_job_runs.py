from __future__ import annotations

import asyncio
from datetime import timedelta

from storage.engine import Database, open_database
from storage.job_runs import JobRun, SqlJobRuns
from tests.storage.samples import START, StillClock


async def test_a_schedule_counts_from_the_last_run_or_from_when_it_is_new(database: Database, clock: StillClock) -> None:
    runs = SqlJobRuns(database)
    assert await runs.arm("relabel", "30 3 * * *") == START
    clock.forward(days=2)
    assert await runs.arm("relabel", "30 3 * * *") == START
    assert await runs.begin("relabel", START)
    assert await runs.arm("relabel", "30 3 * * *") == START + timedelta(days=2)
    clock.forward(hours=1)
    assert await runs.arm("relabel", "0 5 * * *") == START + timedelta(days=2, hours=1), "a new schedule does not catch up on what it would have done"


async def test_runs_are_noted(database: Database, clock: StillClock) -> None:
    runs = SqlJobRuns(database)
    armed = await runs.arm("relabel", "30 3 * * *")
    assert await runs.last("relabel") is None
    await runs.begin("relabel", armed)
    assert await runs.last("relabel") == JobRun("relabel", START)
    clock.forward(minutes=5)
    await runs.end("relabel", "3 flips")
    assert await runs.last("relabel") == JobRun("relabel", START, START + timedelta(minutes=5), "3 flips")
    await runs.begin("relabel", await runs.arm("relabel", "30 3 * * *"))
    assert await runs.last("relabel") == JobRun("relabel", START + timedelta(minutes=5))


async def test_of_two_bots_on_one_database_one_gets_the_run(database: Database, url: str, clock: StillClock) -> None:
    other = await open_database(url, now=clock)
    both = SqlJobRuns(database), SqlJobRuns(other)
    armed = [await runs.arm("relabel", "30 3 * * *") for runs in both]
    clock.forward(days=1)
    assert sorted(await asyncio.gather(*(runs.begin("relabel", due) for runs, due in zip(both, armed, strict=True)))) == [False, True]
    await other.close()
