"""Group commit: one task writes for everybody, so that many small writes share one transaction.

A commit costs the same for one row and for a thousand. Callers hand in a request and wait; while one transaction runs, the next requests gather; each caller is answered after the
commit that holds its request. Requests that wait at the same time are concurrent: a caller that needs an order awaits the first before it submits the second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import StorageError
from storage.failures import DATABASE_ERRORS, concerns_database, explain, is_locked

Item = TypeVar("Item")
Result = TypeVar("Result")
BatchHandler = Callable[[Connection, Sequence[Item]], Sequence[Result]]
"""Writes many items with few statements, one result per item. It may run again for the same items after a roll-back, so it touches nothing but the connection."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Request:
    handler: BatchHandler[Any, Any]
    item: Any
    weight: int
    done: asyncio.Future[Any] = field(repr=False)


@dataclass(slots=True, eq=False)
class _Chore:
    """Work outside of transactions, such as VACUUM."""

    work: Callable[[], Awaitable[None]]
    done: asyncio.Future[Any] = field(repr=False)


class GroupCommit:
    """The single writer of a database. ``max_weight``: rows per transaction, about; ``patience``: seconds that a locked database is tried again for."""

    def __init__(self, engine: AsyncEngine, url: str, *, max_weight: int = 1000, patience: float = 30.0) -> None:
        self._engine, self._url, self._max_weight, self._patience = engine, url, max_weight, patience
        self._waiting: deque[_Request | _Chore] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="storage-writer")

    async def submit(self, handler: BatchHandler[Item, Result], item: Item, weight: int = 1) -> Result:
        """Write ``item`` and return the handler's result for it once it is committed.

        Raises :class:`core.errors.StorageError` when the database is unusable or refuses this item; an error of the handler itself reaches this caller alone.
        """
        future: asyncio.Future[Result] = self._future()
        self._enqueue(_Request(handler, item, weight, future))
        return await future

    async def chore(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` between two transactions."""
        future: asyncio.Future[None] = self._future()
        self._enqueue(_Chore(work, future))
        await future

    async def close(self) -> None:
        """Write what waits, then end. Idempotent."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(self._task, return_exceptions=True)

    def _future(self) -> asyncio.Future[Any]:
        if self._closing:
            raise StorageError(self._url, "closed", "The program is stopping; start it again")
        return asyncio.get_running_loop().create_future()

    def _enqueue(self, entry: _Request | _Chore) -> None:
        self._waiting.append(entry)
        self._wake.set()

    async def _run(self) -> None:
        try:
            while self._waiting or not self._closing:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    # Callers that are ready in this turn of the loop still join the batch.
                    await asyncio.sleep(0)
                    continue
                if isinstance(self._waiting[0], _Chore):
                    chore = self._waiting.popleft()
                    assert isinstance(chore, _Chore)
                    await self._do(chore)
                else:
                    await self._write(self._take())
        finally:
            self._closing = True
            for entry in self._waiting:
                _fail(entry, StorageError(self._url, "closed", "The program is stopping; start it again"))

    def _take(self) -> list[_Request]:
        batch: list[_Request] = []
        weight = 0
        while self._waiting and weight < self._max_weight:
            entry = self._waiting[0]
            if isinstance(entry, _Chore):
                break
            self._waiting.popleft()
            if not entry.done.done():
                batch.append(entry)
                weight += entry.weight
        return batch

    async def _do(self, chore: _Chore) -> None:
        try:
            await chore.work()
        except Exception as error:
            _fail(chore, explain(self._url, error) if isinstance(error, DATABASE_ERRORS) else error)
        except BaseException:
            _fail(chore, StorageError(self._url, "the writer was cancelled", "Start the program again"))
            raise
        else:
            if not chore.done.done():
                chore.done.set_result(None)

    async def _write(self, batch: list[_Request]) -> None:
        """Commit ``batch`` and answer its callers. Never raises but for cancellation."""
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._patience, 0.02
        while batch:
            try:
                outcomes = await self._attempt(batch)
            except Exception as error:
                if is_locked(error) and loop.time() + pause < deadline:
                    log.warning("storage.locked", retry_in_seconds=pause)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 1.0)
                    continue
                failure = explain(self._url, error) if isinstance(error, DATABASE_ERRORS) else error
                outcomes = [(request, failure) for request in batch]
            except BaseException:
                for request in batch:
                    _fail(request, StorageError(self._url, "the writer was cancelled", "Start the program again"))
                raise
            for request, outcome in outcomes:
                if isinstance(outcome, Exception):
                    _fail(request, outcome)
                elif not request.done.done():
                    request.done.set_result(outcome)
            return

    async def _attempt(self, batch: list[_Request]) -> list[tuple[_Request, Any]]:
        """All requests in one go; where that fails for a reason of one of them, each under a savepoint of its own."""
        try:
            async with self._engine.begin() as connection:
                return await connection.run_sync(_write_grouped, batch)
        except Exception as error:
            if concerns_database(error) or len(batch) == 1:
                raise
        async with self._engine.begin() as connection:
            return await connection.run_sync(_write_singly, batch, self._url)


def _write_grouped(connection: Connection, batch: list[_Request]) -> list[tuple[_Request, Any]]:
    groups: dict[BatchHandler[Any, Any], list[_Request]] = {}
    for request in batch:
        groups.setdefault(request.handler, []).append(request)
    outcomes: list[tuple[_Request, Any]] = []
    for handler, requests in groups.items():
        outcomes.extend(zip(requests, handler(connection, [request.item for request in requests]), strict=True))
    return outcomes


def _write_singly(connection: Connection, batch: list[_Request], url: str) -> list[tuple[_Request, Any]]:
    outcomes: list[tuple[_Request, Any]] = []
    for request in batch:
        try:
            with connection.begin_nested():
                outcomes.append((request, request.handler(connection, [request.item])[0]))
        except Exception as error:
            if concerns_database(error):
                raise
            outcomes.append((request, explain(url, error) if isinstance(error, DATABASE_ERRORS) else error))
    return outcomes


def _fail(entry: _Request | _Chore, error: Exception) -> None:
    if not entry.done.done():
        entry.done.set_exception(error)
