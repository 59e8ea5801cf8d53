"""One long connection: the SDK's WebSocket client, run on our loop and made to acknowledge an event only when it is stored.

Imported late: it subclasses a class of the SDK. The SDK's client blocks the loop while it asks for its address, hands every frame to a task of its module's global loop,
reconnects inside its receive loop (where any non-zero code of the endpoint ends the task silently), and acknowledges when a synchronous handler returns. Of it we keep frames,
control frames, re-assembly, ping and write; opening, receiving and acknowledging are replaced, so that its global loop is never used and two bots can live in one process. One
object is one connection: reconnecting makes a new one.
"""

from __future__ import annotations

import asyncio
import http
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlparse

import structlog
import websockets

from adapters.feishu import sdk
from adapters.feishu.lanes import LanesClosed

log = structlog.get_logger(__name__)
_lark = sdk.load()

OPEN_TIMEOUT_SECONDS = 10.0
CLOSE_TIMEOUT_SECONDS = 1.0


class LongConnection(_lark.ws.Client):  # type: ignore[misc,name-defined]  # the SDK has no types
    """``deliver`` gets each event's payload (JSON bytes) in the order of the wire, up to its first ``await``; ``room`` is awaited before the next frame is read."""

    def __init__(self, app_id: str, deliver: Callable[[bytes], Awaitable[None]], room: Callable[[], Awaitable[None]]) -> None:
        super().__init__(app_id, "", log_level=_lark.core.LogLevel.CRITICAL, auto_reconnect=False)
        self._deliver, self._room = deliver, room
        self._tasks: set[asyncio.Task[None]] = set()
        self._intake = True
        self.reading_paused = False

    async def open(self, url: str, settings: dict[str, Any]) -> None:
        """Connect to the address that the endpoint gave. ``settings`` are its ClientConfig. Raises what the SDK or websockets raise."""
        self._configure(_lark.ws.ClientConfig(settings))
        query = parse_qs(urlparse(url).query)
        try:
            # No keep-alive of the library: it would take our own pause in reading (back pressure) for a dead line. The supervisor probes instead.
            conn: Any = await websockets.connect(url, **_lark.ws._ws_connect_kwargs(), ping_interval=None, open_timeout=OPEN_TIMEOUT_SECONDS, close_timeout=CLOSE_TIMEOUT_SECONDS)
        except websockets.exceptions.InvalidHandshake as error:
            _lark.ws._parse_ws_conn_exception(error)
            raise
        self._conn, self._conn_url = conn, url
        self._conn_id, self._service_id = query[_lark.ws.DEVICE_ID][0], query[_lark.ws.SERVICE_ID][0]

    @property
    def reconnect_jitter(self) -> float:
        """Longest random wait before the first reconnection, seconds, as the server wants it."""
        return max(0.0, float(self._reconnect_nonce))

    async def receive(self) -> None:
        """Read frames until the connection ends, then raise websockets' ConnectionClosed."""
        while True:
            self.reading_paused = True
            await self._room()
            self.reading_paused = False
            frame = await self._conn.recv()
            if not self._intake:
                continue  # not acknowledged: the platform pushes it again to whoever connects next
            task = asyncio.create_task(self._handle_message(frame), name="feishu-frame")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0)  # the frame's task reaches the lanes before there is talk of room for the next

    def stop_reading(self) -> None:
        """Take no more events; acknowledgements of those that are inside can still be written."""
        self._intake = False

    async def keep_alive(self) -> None:
        """Send the platform's own pings at the interval that the server sets."""
        await self._ping_loop()

    async def round_trip(self) -> None:
        """Return when the other end has answered a WebSocket ping."""
        await (await self._conn.ping())

    async def flush(self) -> None:
        """Wait a moment until the acknowledgements of all events that have been handled are written."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=CLOSE_TIMEOUT_SECONDS)

    async def close(self, dead: bool = False) -> None:
        """Close the connection and end every task of it. ``dead``: nobody listens at the other end, so do not say good-bye."""
        self._cache._cron.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, self._cache._cron, return_exceptions=True)
        conn: Any = self._conn
        self._conn = None
        if conn is not None:
            if dead:
                conn.transport.abort()
            await conn.close()

    def _configure(self, conf: Any) -> None:
        """Replaces the SDK's, which takes missing settings for None and whose ping loop then dies."""
        if isinstance(conf.PingInterval, int) and conf.PingInterval > 0:
            self._ping_interval = conf.PingInterval
        if isinstance(conf.ReconnectNonce, int) and conf.ReconnectNonce >= 0:
            self._reconnect_nonce = conf.ReconnectNonce

    async def _handle_data_frame(self, frame: Any) -> None:
        """Replaces the SDK's: the acknowledgement waits for ``deliver``."""
        headers = {header.key: header.value for header in frame.headers}
        payload: bytes | None = frame.payload
        parts = int(headers.get(_lark.ws.HEADER_SUM) or 1)
        if parts > 1:
            payload = self._combine(headers[_lark.ws.HEADER_MESSAGE_ID], parts, int(headers[_lark.ws.HEADER_SEQ]), payload)
            if payload is None:
                return
        code = http.HTTPStatus.OK
        started = time.monotonic()
        if headers.get(_lark.ws.HEADER_TYPE) == _lark.ws.MessageType.EVENT.value and payload is not None:
            try:
                await self._deliver(payload)
            except LanesClosed:
                code = http.HTTPStatus.SERVICE_UNAVAILABLE  # we are stopping: the platform pushes it to whoever connects next
            except Exception as error:  # whatever the store raised: not acknowledged
                log.warning("feishu.event_not_stored", error=type(error).__name__)
                code = http.HTTPStatus.INTERNAL_SERVER_ERROR  # the platform pushes it again
        header = frame.headers.add()
        header.key, header.value = _lark.ws.HEADER_BIZ_RT, str(round((time.monotonic() - started) * 1000))
        frame.payload = _lark.core.JSON.marshal(_lark.ws.Response(code=code)).encode()
        try:
            await self._write_message(frame.SerializeToString())
        except (websockets.exceptions.ConnectionClosed, _lark.ws.ConnectionClosedException):
            log.debug("feishu.acknowledgement_lost")  # it is pushed again, and known by its message_id
