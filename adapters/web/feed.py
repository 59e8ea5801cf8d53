"""The dashboard's live feed: one loop reads the database for all who look, and only while somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from core.clock import Clock
from core.errors import StorageError
from storage.dashboard import Snapshot

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 2.0
SPARED_SHARE = 10.0
"""The loop rests so many times as long as the reading took, at least: a large log costs a tenth of one core at most."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one round gave: the newest snapshot, None before the first, and why the last attempt failed, if it did."""

    snapshot: Snapshot | None
    problem: StorageError | None = None


class Subscription:
    """One client's view of the feed: the newest reading; what it was too slow for is passed over."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._reading: Reading | None = None
        self._closed = False

    async def next(self) -> Reading | None:
        """Wait for a reading; None when the feed has closed."""
        await self._news.wait()
        self._news.clear()
        return None if self._closed else self._reading

    def offer(self, reading: Reading) -> None:
        self._reading = reading
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()


class Feed:
    """``load`` reads a snapshot and may raise StorageError, which is part of the news."""

    def __init__(self, load: Callable[[], Awaitable[Snapshot]], clock: Clock, interval: float = INTERVAL_SECONDS) -> None:
        self._load, self._clock, self._interval = load, clock, interval
        self._subscriptions: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None
        self._newest = Reading(None)
        self._closed = False

    @property
    def followers(self) -> int:
        return len(self._subscriptions)

    @property
    def running(self) -> bool:
        return self._task is not None

    async def load(self) -> Snapshot:
        """A snapshot of now. Raises StorageError."""
        return await self._load()

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[Subscription]:
        """Readings from now on, the newest one at once where the loop runs already."""
        subscription = Subscription()
        if self._closed:
            subscription.close()
        elif self._task is None:
            self._newest = Reading(None)
            self._task = asyncio.create_task(self._run(), name="dashboard-feed")
        elif self._newest.snapshot is not None or self._newest.problem is not None:
            subscription.offer(self._newest)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            if not self._subscriptions:
                await self._rest()

    async def close(self) -> None:
        """End all subscriptions and the loop. Idempotent."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
        await self._rest()

    async def _rest(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            began = self._clock.monotonic()
            try:
                self._newest = Reading(await self._load())
            except StorageError as error:
                log.warning("dashboard_without_database", problem=error.problem)
                self._newest = Reading(self._newest.snapshot, error)
            for subscription in self._subscriptions:
                subscription.offer(self._newest)
            took = self._clock.monotonic() - began
            await self._clock.sleep(max(self._interval, SPARED_SHARE * took))
