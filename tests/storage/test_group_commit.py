from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from core.errors import StorageError
from storage.group_commit import GroupCommit

table = sa.Table("t", sa.MetaData(), sa.Column("n", sa.Integer, primary_key=True))


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
async def writer(engine: AsyncEngine) -> AsyncIterator[GroupCommit]:
    writer = GroupCommit(engine, "sqlite:///t.db", max_weight=100)
    yield writer
    await writer.close()


class Recorder:
    """Inserts numbers; remembers how large each batch was."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def insert(self, connection: Connection, numbers: Sequence[int]) -> list[int]:
        self.batches.append(len(numbers))
        if -1 in numbers:
            raise ValueError("minus one")
        connection.execute(sa.insert(table), [{"n": number} for number in numbers])
        return [number * 10 for number in numbers]


async def stored(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list(await connection.scalars(sa.select(table.c.n).order_by(table.c.n)))


async def test_callers_that_wait_together_share_transactions_and_get_their_own_answer(writer: GroupCommit, engine: AsyncEngine) -> None:
    recorder = Recorder()
    answers = await asyncio.gather(*(writer.submit(recorder.insert, number) for number in range(250)))
    assert answers == [number * 10 for number in range(250)]
    assert recorder.batches == [100, 100, 50]
    assert await stored(engine) == list(range(250))


async def test_a_request_that_fails_fails_its_caller_alone(writer: GroupCommit, engine: AsyncEngine) -> None:
    recorder = Recorder()
    await writer.submit(recorder.insert, 5)
    answers = await asyncio.gather(*(writer.submit(recorder.insert, number) for number in (1, -1, 5, 2)), return_exceptions=True)
    assert answers[0] == 10
    assert isinstance(answers[1], ValueError)
    assert isinstance(answers[2], StorageError)
    assert answers[3] == 20
    assert await stored(engine) == [1, 2, 5]


async def test_close_writes_what_waits_and_refuses_what_comes_later(writer: GroupCommit, engine: AsyncEngine) -> None:
    recorder = Recorder()
    waiting = [asyncio.ensure_future(writer.submit(recorder.insert, number)) for number in range(30)]
    await asyncio.sleep(0)
    await writer.close()
    assert [await one for one in waiting] == [number * 10 for number in range(30)]
    with pytest.raises(StorageError, match="closed"):
        await writer.submit(recorder.insert, 99)


async def test_a_caller_that_was_cancelled_does_not_disturb_the_others(writer: GroupCommit, engine: AsyncEngine) -> None:
    recorder = Recorder()
    first, second = (asyncio.ensure_future(writer.submit(recorder.insert, number)) for number in (1, 2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 20
    assert await writer.submit(recorder.insert, 3) == 30
    assert first.cancelled()


async def test_chores_run_between_transactions(writer: GroupCommit, engine: AsyncEngine) -> None:
    recorder = Recorder()
    seen: list[int] = []

    async def look() -> None:
        seen.extend(await stored(engine))

    async def fail() -> None:
        raise RuntimeError("no")

    await asyncio.gather(writer.submit(recorder.insert, 1), writer.chore(look), writer.submit(recorder.insert, 2))
    assert seen == [1]
    with pytest.raises(RuntimeError):
        await writer.chore(fail)
    assert await writer.submit(recorder.insert, 3) == 30
