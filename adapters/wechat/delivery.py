"""Order without waiting: payloads are fetched concurrently and handed over in the order of their events; each room has its own queue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

import structlog

from core.clock import Clock

log = structlog.get_logger(__name__)

Payload = TypeVar("Payload")
Job = Callable[[], Awaitable[None]]

_CONCURRENT_FETCHES = 16
_FETCH_PAUSES = (0.5, 1.0)  # seconds between the tries that hold up later messages
_LATE_PAUSES = (2.0, 5.0, 10.0, 20.0, 40.0, 60.0)  # after them the message comes late rather than not at all
_JOB_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 60.0, 60.0)


class RoomQueues:
    """One queue a room, worked off in order. A job that fails is tried again before the next of its room; a worker lives only while its room has jobs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: dict[str, deque[Job]] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Jobs that are not begun."""
        return sum(map(len, self._jobs.values()))

    def submit(self, room_id: str, job: Job) -> None:
        self._jobs.setdefault(room_id, deque()).append(job)
        if room_id not in self._workers:
            self._workers[room_id] = asyncio.create_task(self._work(room_id), name=f"wechat-room-{room_id}")

    async def _work(self, room_id: str) -> None:
        jobs = self._jobs[room_id]
        try:
            while jobs:
                await self._run(jobs.popleft())
        finally:
            self._jobs.pop(room_id, None)
            self._workers.pop(room_id, None)

    async def _run(self, job: Job) -> None:
        for pause in (*_JOB_PAUSES, None):
            try:
                return await job()
            except Exception as error:  # whatever the consumer raises must not end the room's queue
                if pause is None:
                    self.dropped += 1
                    log.error("wechat.message_dropped", reason="not stored", error=type(error).__name__)
                    return None
                log.warning("wechat.message_not_stored", error=type(error).__name__, retry_in=pause)
                await self._clock.sleep(pause)
        return None

    async def drain(self, seconds: float) -> None:
        """Wait until all rooms are done, at most ``seconds``; what is left is cancelled."""
        workers = list(self._workers.values())
        if workers:
            await first_of(asyncio.wait(workers), self._clock.sleep(seconds))
        await cancel(*workers)


class Intake(Generic[Payload]):
    """Fetches payloads by id, several at a time, and calls ``hand`` with id and payload in the order of :meth:`submit`.

    Before its first fetch each id goes to ``announce``, so that it can be kept where a crash does not reach it.
    A fetch that fails is tried again; after some seconds the later messages go on, and the failing one is handed over whenever a later try succeeds.
    An id that is on its way is not fetched twice; one that was given up may come again.
    """

    def __init__(self, announce: Callable[[str], Awaitable[None]], fetch: Callable[[str], Awaitable[Payload]], hand: Callable[[str, Payload], None], clock: Clock) -> None:
        self._announce, self._fetch, self._hand, self._clock = announce, fetch, hand, clock
        self._slots = asyncio.Semaphore(_CONCURRENT_FETCHES)
        self._fetching: asyncio.Queue[tuple[str, asyncio.Task[Payload | None]]] = asyncio.Queue()
        self._under_way: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._router: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Ids whose payload is not handed over yet."""
        return len(self._under_way)

    def start(self) -> None:
        self._router = asyncio.create_task(self._route(), name="wechat-intake")

    def submit(self, message_id: str) -> None:
        if message_id in self._under_way:
            return
        self._under_way.add(message_id)
        self._idle.clear()
        self._fetching.put_nowait((message_id, self._spawn(self._begin(message_id))))

    async def drain(self, seconds: float) -> None:
        """Wait until all fetched payloads are handed over, at most ``seconds``, then stop; what is left is cancelled."""
        await first_of(self._idle.wait(), self._clock.sleep(seconds))
        await cancel(*self._tasks, *([self._router] if self._router else []))
        self._fetching = asyncio.Queue()
        self._under_way.clear()
        self._idle.set()

    def _done(self, message_id: str) -> None:
        self._under_way.discard(message_id)
        if not self._under_way:
            self._idle.set()

    def _spawn(self, work: Coroutine[Any, Any, Payload | None]) -> asyncio.Task[Payload | None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _route(self) -> None:
        while True:
            message_id, fetching = await self._fetching.get()
            payload = await fetching
            if payload is None:
                self._spawn(self._late(message_id))
            else:
                self._finish(message_id, payload)

    async def _begin(self, message_id: str) -> Payload | None:
        await self._announce(message_id)
        return await self._try(message_id, _FETCH_PAUSES)

    async def _late(self, message_id: str) -> None:
        log.warning("wechat.payload_late", message_id=message_id)
        await self._clock.sleep(_LATE_PAUSES[0])
        payload = await self._try(message_id, _LATE_PAUSES[1:])
        if payload is None:
            self.dropped += 1
            self._done(message_id)
            log.error("wechat.payload_missing", message_id=message_id, next_try="at the next connection")
        else:
            self._finish(message_id, payload)

    def _finish(self, message_id: str, payload: Payload) -> None:
        self._hand(message_id, payload)
        self._done(message_id)

    async def _try(self, message_id: str, pauses: tuple[float, ...]) -> Payload | None:
        for pause in (*pauses, None):
            try:
                async with self._slots:
                    return await self._fetch(message_id)
            except Exception as error:  # a look-up may fail in any way; it must not lose the message
                log.debug("wechat.payload_failed", message_id=message_id, error=type(error).__name__)
            if pause is not None:
                await self._clock.sleep(pause)
        return None


async def first_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of ``works`` is over and cancel the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(*tasks)


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel and wait until all are over; their errors are theirs."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
