"""Events of one conversation one after the other, conversations side by side; whoever pushed an event learns how it ended.

A conversation has a task only while it has events. The number of events inside is bounded: :meth:`Lanes.room` is where a transport waits before it takes the next one off the wire.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from core.clock import Clock

E = TypeVar("E")


class LanesClosed(Exception):  # noqa: N818  # a state, not a fault
    """The lanes closed before the event was handled."""


class Lanes(Generic[E]):
    """Calls ``handle`` with each event, in order of :meth:`submit` within a key."""

    def __init__(self, handle: Callable[[E], Awaitable[None]], clock: Clock, capacity: int = 256) -> None:
        """:param capacity: events that may be inside before :meth:`room` waits."""
        self._handle, self._clock, self._capacity = handle, clock, capacity
        self._lanes: dict[Hashable, deque[tuple[E, asyncio.Future[None]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._inside = 0
        self._closed = False
        self._change = asyncio.Event()

    @property
    def full(self) -> bool:
        return self._inside >= self._capacity

    async def room(self) -> None:
        """Return when there is room for one more event."""
        while self.full:
            self._change.clear()
            await self._change.wait()

    def submit(self, key: Hashable, event: E) -> asyncio.Future[None]:
        """Queue an event. The future ends when its handler does, with the handler's exception, or with :class:`LanesClosed` when the lanes close first."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:
            _fail(future, LanesClosed())
            return future
        self._inside += 1
        lane = self._lanes.get(key)
        if lane is not None:
            lane.append((event, future))
            return future
        self._lanes[key] = deque([(event, future)])
        task = asyncio.create_task(self._run(key), name="feishu-lane")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return future

    async def close(self, deadline: float) -> None:
        """Take no more, let what is inside end for at most ``deadline`` seconds, then cancel the rest. Idempotent."""
        self._closed = True
        timer = asyncio.ensure_future(self._clock.sleep(deadline))
        while self._tasks and not timer.done():
            await asyncio.wait({*self._tasks, timer}, return_when=asyncio.FIRST_COMPLETED)
        timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, timer, return_exceptions=True)

    async def _run(self, key: Hashable) -> None:
        lane = self._lanes[key]
        try:
            while lane:
                event, future = lane[0]
                try:
                    await self._handle(event)
                except Exception as error:  # whatever the handler raises goes to who waits for this event; the lane goes on
                    _fail(future, error)
                else:
                    if not future.done():
                        future.set_result(None)
                lane.popleft()
                self._left(1)
        finally:
            del self._lanes[key]
            for _, future in lane:
                _fail(future, LanesClosed())
            self._left(len(lane))

    def _left(self, count: int) -> None:
        # Counted here and not when the future ends: who pushed an event may give up (its connection dropped) while the event is still inside.
        self._inside -= count
        self._change.set()


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever pushed the event may be gone: then nobody asks, and that is no fault
