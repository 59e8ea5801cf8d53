"""A clock that moves only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class ManualClock:
    """Implements :class:`core.clock.Clock`; :meth:`advance` wakes the sleepers whose time has come, in order."""

    def __init__(self, start: datetime = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    @property
    def asleep(self) -> int:
        """How many wait for the time to pass. Fewer than at rest: somebody is still at work, and time that passes now passes unseen by them."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._count), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass; sleepers that wake may sleep again within the span."""
        end = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, due)
            if not future.done():
                future.set_result(None)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        self._elapsed = end
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], object], timeout: float = 20.0, tick: Callable[[], object] | None = None) -> None:
    """Return as soon as ``condition()`` is true; fail after ``timeout`` real seconds. ``tick`` may return an awaitable that moves a manual clock between looks."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout} s: {condition}")
        if tick is not None:
            moved = tick()
            if asyncio.iscoroutine(moved):
                await moved
        await asyncio.sleep(0.002)
