"""Keeps one long connection alive: opens it, notices when it is dead or a black hole, and opens the next one with jitter."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING

import structlog

from adapters.feishu.rest import BAD_CREDENTIAL_CODES, ApiError, Rest, bad_credentials
from core.clock import Clock

if TYPE_CHECKING:
    from adapters.feishu.long_connection import LongConnection

log = structlog.get_logger(__name__)

PROBE_INTERVAL_SECONDS = 15.0
PROBE_TIMEOUT_SECONDS = 15.0
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 120.0
REFUSED_BACKOFF_SECONDS = 300.0


class Supervisor:
    """:meth:`start` returns after the first attempt; from then on the connection is kept until :meth:`stop`."""

    def __init__(
        self,
        app_id: str,
        rest: Rest,
        clock: Clock,
        deliver: Callable[[bytes], Awaitable[None]],
        room: Callable[[], Awaitable[None]],
        opened: Callable[[], Awaitable[None]],
        jitter: random.Random | None = None,
    ) -> None:
        """:param opened: called after each opening, before the first frame is read."""
        self._app_id, self._rest, self._clock, self._deliver, self._room, self._opened = app_id, rest, clock, deliver, room, opened
        self._jitter = jitter or random.Random()
        self._task: asyncio.Task[None] | None = None
        self._client: LongConnection | None = None
        self._reading = True
        self._first_jitter = FIRST_BACKOFF_SECONDS
        self.connected = False
        self.detail = "not started"
        self.reconnects = 0

    async def start(self) -> None:
        """Make the first attempt and go on in the background. Raises core.errors.ConfigError when the endpoint refuses the credentials."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._rest.in_thread(_import_client)
        self._task = asyncio.create_task(self._supervise(first), name="feishu-supervisor")
        await asyncio.wait({first, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            first.result()

    async def stop(self, drain: Callable[[], Awaitable[None]]) -> None:
        """Read no more, await ``drain`` while acknowledgements can still be written, then close. Idempotent."""
        task, self._task = self._task, None
        client = self._client
        self._reading = False
        if client is not None:
            client.stop_reading()
        await drain()
        if client is not None:
            await client.flush()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.connected, self.detail = False, "stopped"

    async def _supervise(self, first: asyncio.Future[None]) -> None:
        failures = 0
        while True:
            try:
                lived = await self._one_connection(first)
                failures, wait = 0, self._jitter.uniform(0.0, self._first_jitter)
                log.warning("feishu.disconnected", reason=lived, retry_in=round(wait, 1))
            except Exception as error:  # the SDK may raise anything; a dead supervisor would be a silent bot
                if isinstance(error, ApiError) and error.code in BAD_CREDENTIAL_CODES and not first.done():
                    self.detail = str(error)
                    first.set_exception(bad_credentials(error))
                    return
                wait = self._wait_after(error, failures)
                failures += 1
                self.detail = _shown(error)
                log.warning("feishu.connect_failed", problem=self.detail, attempt=failures, retry_in=round(wait, 1))
            if not first.done():
                first.set_result(None)
            await self._clock.sleep(wait)
            self.reconnects += 1

    async def _one_connection(self, first: asyncio.Future[None]) -> str:
        """Open, watch, close; why it ended. Raises when it could not be opened."""
        from adapters.feishu.long_connection import LongConnection

        url, settings = await self._rest.endpoint()
        client = LongConnection(self._app_id, self._deliver, self._room)
        dead = True
        try:
            await client.open(url, settings)
            self._first_jitter = client.reconnect_jitter
            await self._opened()
            self._client = client
            if not self._reading:
                client.stop_reading()
            self.connected, self.detail = True, "connected"
            log.info("feishu.connected")
            if not first.done():
                first.set_result(None)
            reason, dead = await self._watch(client)
            self.detail = reason
            return reason
        except asyncio.CancelledError:
            dead = False
            raise
        finally:
            self.connected, self._client = False, None
            await client.close(dead)

    async def _watch(self, client: LongConnection) -> tuple[str, bool]:
        """Until the receive task ends or a probe stays unanswered: the reason, and whether the line is dead."""
        receiving, pinging = asyncio.create_task(client.receive(), name="feishu-receive"), asyncio.create_task(client.keep_alive(), name="feishu-ping")
        probing = asyncio.create_task(self._probe(client), name="feishu-probe")
        tasks = (receiving, pinging, probing)
        try:
            await asyncio.wait({receiving, probing}, return_when=asyncio.FIRST_COMPLETED)
            if probing.done() and not receiving.done():
                error = probing.exception()
                return (_shown(error) if error else "no answer to pings"), True
            error = receiving.exception()
            return (_shown(error) if error else "closed"), False
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _probe(self, client: LongConnection) -> None:
        """Return when the other end does not answer although we read."""
        while True:
            await self._clock.sleep(PROBE_INTERVAL_SECONDS)
            if client.reading_paused:
                continue  # the answer would wait in the line behind what we do not read: no sign of anything
            answer = asyncio.create_task(client.round_trip(), name="feishu-round-trip")
            timer = asyncio.ensure_future(self._clock.sleep(PROBE_TIMEOUT_SECONDS))
            try:
                await asyncio.wait({answer, timer}, return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    answer.result()
                elif not client.reading_paused:
                    return
            finally:
                answer.cancel()
                timer.cancel()
                await asyncio.gather(answer, timer, return_exceptions=True)

    def _wait_after(self, error: Exception, failures: int) -> float:
        if isinstance(error, ApiError) and not error.transient:
            return REFUSED_BACKOFF_SECONDS * self._jitter.uniform(0.8, 1.2)
        named = error.retry_after if isinstance(error, ApiError) else None
        backoff = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 20))  # after a day without a network the power would overflow
        return max(named or 0.0, backoff * self._jitter.uniform(0.5, 1.0))


def _import_client() -> None:
    """What importing costs is paid in a thread, before the loop needs it."""
    import_module("websockets.asyncio.client")
    import_module("adapters.feishu.long_connection")


def _shown(error: BaseException) -> str:
    """Without the address, whose query holds a ticket."""
    return str(error) if isinstance(error, ApiError) else f"{type(error).__name__}: {str(error).partition('wss://')[0].partition('ws://')[0]}"[:200]
