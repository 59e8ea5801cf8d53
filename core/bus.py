"""The event bus: typed events, handled in order within a conversation and side by side between conversations.

Each conversation has a lane: a bounded queue and, while it holds events, one task. A publisher from outside waits while the lane is full (back pressure up to the
platform); a handler that publishes never waits, for lanes would wait for themselves or for each other. A handler's failure is logged, counted, published as
:class:`core.events.HandlerFailed` and does not keep the event from the other handlers. What a handler publishes into its own lane is handled next, before what waited.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import structlog

from core.events import Event, HandlerFailed
from core.messages import ConversationKey

E = TypeVar("E", bound=Event)
Handler = Callable[[Any], Awaitable[None]]

log = structlog.get_logger(__name__)
_current_lane: ContextVar[ConversationKey | None] = ContextVar("doujie_current_lane", default=None)


class _Lane:
    __slots__ = ("events", "follow_ups", "room", "task")

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.follow_ups: deque[Event] = deque()
        self.room: asyncio.Event | None = None
        self.task: asyncio.Task[None] | None = None


class EventBus:
    """Publish with :meth:`publish`, listen with :meth:`subscribe`; :meth:`start` before the first event, :meth:`stop` at the end."""

    def __init__(self, lane_capacity: int = 1000) -> None:
        """:param lane_capacity: events that may wait in one conversation before publishers wait."""
        self._capacity = lane_capacity
        self._handlers: dict[type[Any], list[Handler]] = {}
        self._lanes: dict[ConversationKey, _Lane] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._running = self._draining = False
        self.failures = 0
        self.handled = 0

    def subscribe(self, event_type: type[E], handler: Callable[[E], Awaitable[None]]) -> None:
        """Call ``handler`` with each event of exactly this type, after the handlers subscribed before it."""
        self._handlers.setdefault(event_type, []).append(handler)

    async def start(self) -> None:
        self._running = True

    async def publish(self, event: Event) -> None:
        """Queue an event; waits while its lane is full, except in a handler. Raises RuntimeError when the bus is not running, or stops while this waits."""
        if _current_lane.get() is None:
            while self._running and (lane := self._lanes.get(event.conversation)) is not None and len(lane.events) >= self._capacity:
                await self._room(lane)
            if not self._running:
                raise RuntimeError("the event bus is not running")
        self.publish_result(event)

    def publish_result(self, event: Event) -> None:
        """Queue an event at once, also into a full lane: for stages behind the lanes, which the lanes may be waiting for. Raises RuntimeError after :meth:`stop`."""
        if not (self._running or self._draining):
            raise RuntimeError("the event bus is not running")
        lane = self._lane(event.conversation)
        if lane.task is not None and lane.task is asyncio.current_task():
            lane.follow_ups.append(event)
            return
        lane.events.append(event)
        if lane.task is None:
            self._idle.clear()
            lane.task = asyncio.create_task(self._run(event.conversation, lane), name=f"lane {event.conversation}")

    def _lane(self, key: ConversationKey) -> _Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
        return lane

    async def _room(self, lane: _Lane) -> None:
        if lane.room is None:
            lane.room = asyncio.Event()
        lane.room.clear()
        await lane.room.wait()

    async def _run(self, key: ConversationKey, lane: _Lane) -> None:
        _current_lane.set(key)
        handled = 0
        while lane.events:
            event = lane.events.popleft()
            if lane.room is not None and len(lane.events) < self._capacity:
                lane.room.set()
            await self._handle(event)
            while lane.follow_ups:
                lane.events.appendleft(lane.follow_ups.pop())
            handled += 1
            if handled % 64 == 0:  # handlers that never wait must not starve the other conversations
                await asyncio.sleep(0)
        lane.task = None
        self._lanes.pop(key, None)
        if not self._lanes:
            self._idle.set()

    async def _handle(self, event: Event) -> None:
        self.handled += 1
        for handler in self._handlers.get(type(event), ()):
            try:
                await handler(event)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                await self._failed(event, handler, error)  # not this lane was cancelled, but something that the handler awaited
            except Exception as error:  # one handler must not end the lane: its failure is an event of its own
                await self._failed(event, handler, error)

    async def _failed(self, event: Event, handler: Handler, error: BaseException) -> None:
        name = getattr(handler, "__qualname__", repr(handler))
        self.failures += 1
        log.error("handler_failed", event_type=type(event).__name__, conversation=str(event.conversation), handler=name, error=type(error).__name__)
        log.debug("handler_failed_detail", handler=name, detail=str(error))
        if not isinstance(event, HandlerFailed):
            await self._handle(HandlerFailed(event, name, error))

    @property
    def waiting(self) -> int:
        """Events that no handler has seen yet."""
        return sum(len(lane.events) for lane in self._lanes.values())

    @property
    def idle(self) -> bool:
        """No event waits or is being handled."""
        return self._idle.is_set()

    async def drain(self, timeout: float | None = None) -> bool:
        """Wait until every lane is empty. False when ``timeout`` seconds passed first."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def stop(self, timeout: float | None = 10.0) -> bool:
        """Take no more events from outside, drain up to ``timeout`` seconds, then cancel what is left. True when nothing was left.

        Publishers that wait for room get a RuntimeError.
        """
        self._running, self._draining = False, True
        for lane in self._lanes.values():
            if lane.room is not None:
                lane.room.set()
        drained = await self.drain(timeout)
        self._draining = False
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lanes.clear()
        self._idle.set()
        return drained
