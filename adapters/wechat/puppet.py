"""The connection to a WeChat puppet service: the real wechaty client, with what it lacks (deadlines, a tolerant event stream, payloads as the server sends them).

``Wechaty.start`` is not used: it stops the caller's event loop when the service is down, waits 60 s and does not come back after a second drop. This module opens one connection
and says when it is over; :mod:`adapters.wechat.wechaty_adapter` decides what to do then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from adapters.wechat.payloads import RawMessage
from adapters.wechat.under_way import UnderWay
from adapters.wechat.wechaty_compat import load_wechaty
from core.config import WechatSection
from core.errors import ConfigError

_PERMANENT = {Status.INVALID_ARGUMENT, Status.NOT_FOUND, Status.PERMISSION_DENIED, Status.UNAUTHENTICATED, Status.FAILED_PRECONDITION, Status.OUT_OF_RANGE, Status.UNIMPLEMENTED}
_RATE_LIMIT_SECONDS = 30.0


class EventKind(IntEnum):
    """``EventType`` of the puppet service's protocol."""

    HEARTBEAT = 1
    MESSAGE = 2
    DONG = 3
    ROOM_JOIN = 19
    ROOM_LEAVE = 20
    ROOM_TOPIC = 21
    SCAN = 22
    RESET = 24
    LOGIN = 25
    LOGOUT = 26
    DIRTY = 27


@dataclass(frozen=True, slots=True)
class PuppetEvent:
    """One event of the stream. ``data`` is its JSON object, empty when the service sent none that can be read."""

    kind: int
    data: dict[str, Any]


class PuppetError(Exception):
    """A call to the puppet service failed. ``permanent``: the same call will fail again. ``retry_after`` in seconds. ``late``: nothing came within the deadline."""

    def __init__(self, problem: str, *, permanent: bool = False, unauthenticated: bool = False, retry_after: float | None = None, late: bool = False) -> None:
        self.problem, self.permanent, self.unauthenticated, self.retry_after, self.late = problem, permanent, unauthenticated, retry_after, late
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that a connection attempt and one call may take."""

    connect: float = 10.0
    call: float = 10.0


class PuppetClient:
    """One connection, used once: :meth:`connect`, :meth:`events` and the calls, :meth:`close`. All calls raise :class:`PuppetError`."""

    def __init__(self, host: str, port: int, token: str, deadlines: Deadlines) -> None:
        self._host, self._port, self._token, self._deadlines = host, port, token, deadlines
        self._channel: Channel | None = None
        self._puppet: Any = None
        self._stream_stub: Any = None
        self._sending = UnderWay()

    async def connect(self, *, start: bool = True) -> None:
        """Open the channel and, with ``start``, (re)start the puppet behind it as every wechaty client does. Without it a running bot is not disturbed."""
        modules = await load_wechaty()
        # Process-wide pools of the package: objects of a former bot in them would send through its dead channel.
        modules.room._pool.clear()
        modules.contact._pool.clear()
        bot = modules.wechaty(self._options(modules))
        await bot.init_puppet()
        self._puppet = bot.puppet
        self._puppet.options.token = self._token
        self._channel = channel = Channel(self._host, self._port)
        if self._token:
            channel._authority = self._token
        self._puppet.channel = channel
        self._puppet._puppet_stub = modules.puppet_stub(channel, timeout=self._deadlines.call)
        self._stream_stub = modules.puppet_stub(channel)
        try:
            async with asyncio.timeout(self._deadlines.connect):
                await channel.__connect__()
        except (OSError, TimeoutError) as error:
            raise PuppetError(f"cannot connect to {self._host}:{self._port}: {_plain(error)}") from error
        if start:
            with contextlib.suppress(PuppetError):
                await self._call(self._puppet.puppet_stub.stop())
            await self._call(self._puppet.puppet_stub.start())

    def _options(self, modules: Any) -> Any:
        options = modules.puppet_options(token=self._token or None, end_point=f"{self._host}:{self._port}")
        # The scheduler of its own keeps wechaty from making a job store on disk; it is never started.
        return modules.options(name="doujie", puppet_options=options, scheduler=AsyncIOScheduler())

    async def events(self) -> AsyncIterator[PuppetEvent]:
        """The events until the stream ends. An end without an error is an end too: the service or the network went away."""
        try:
            async with contextlib.aclosing(self._stream_stub.event()) as stream:
                async for response in stream:
                    yield PuppetEvent(int(response.type), _json_object(response.payload))
        except (GRPCError, StreamTerminatedError, ProtocolError, OSError) as error:
            raise PuppetError(f"event stream: {_plain(error)}") from error

    async def message(self, message_id: str) -> RawMessage:
        """The payload of a message with the type number as the service sent it (wechaty's own mapping fails above 15)."""
        payload = await self._call(self._puppet.puppet_stub.message_payload(id=message_id))
        return RawMessage(payload.id or message_id, payload.room_id, payload.from_id, payload.text, int(payload.type), payload.timestamp, tuple(payload.mention_ids))

    async def room_ids(self) -> list[str]:
        return list(await self._call(self._puppet.room_list()))

    async def room_topic(self, room_id: str) -> str:
        return str((await self._call(self._puppet.room_payload(room_id))).topic)

    async def room_admins(self, room_id: str) -> frozenset[str]:
        """Contact ids of the owner of a room and of its admins."""
        payload = await self._call(self._puppet.room_payload(room_id))
        return frozenset({payload.owner_id, *payload.admin_ids} - {""})

    async def member_alias(self, room_id: str, contact_id: str) -> str:
        """The name a member chose for this room, "" without one."""
        return str((await self._call(self._puppet.room_member_payload(room_id, contact_id))).room_alias)

    async def contact_name(self, contact_id: str) -> str:
        return str((await self._call(self._puppet.contact_payload(contact_id))).name)

    async def send_text(self, room_id: str, text: str, mention_ids: Sequence[str]) -> str:
        """The id of the sent message, "" where the service gives none."""
        return str(await self._sending.run(self._call(self._puppet.message_send_text(room_id, text, list(mention_ids)), quiet=True)) or "")

    async def recall(self, message_id: str) -> bool:
        return bool(await self._call(self._puppet.message_recall(message_id)))

    async def ding(self, data: str) -> None:
        """Ask for a ``dong`` event."""
        await self._call(self._puppet.ding(data))

    async def version(self) -> str:
        return str((await self._call(self._puppet.puppet_stub.version())).version)

    async def close(self, *, stop: bool = False) -> None:
        """Close the channel; with ``stop``, tell the service first. Idempotent.

        What is being sent keeps its deadline: the event stream may be over and the line alive, and a reply that is cut off is said again although the group saw it.
        """
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            await self._sending.wait()
            if stop:
                with contextlib.suppress(PuppetError):
                    await self._call(self._puppet.puppet_stub.stop())
        finally:
            channel.close()

    async def _call(self, call: Awaitable[Any], *, quiet: bool = False) -> Any:
        """``quiet``: the error names its status alone. Services repeat in the detail what they were told to send, and it goes into the log."""
        try:
            async with asyncio.timeout(self._deadlines.call):
                return await call
        except TimeoutError as error:
            raise self._late() from error
        except GRPCError as error:
            if error.status is Status.DEADLINE_EXCEEDED:  # the service was told of the deadline, and may notice it first
                raise self._late() from error
            rate_limited = error.status is Status.RESOURCE_EXHAUSTED
            raise PuppetError(
                error.status.name if quiet else _plain(error),
                permanent=error.status in _PERMANENT,
                unauthenticated=error.status is Status.UNAUTHENTICATED,
                retry_after=_RATE_LIMIT_SECONDS if rate_limited else None,
            ) from error
        except (StreamTerminatedError, ProtocolError, OSError, AssertionError) as error:
            raise PuppetError(_plain(error)) from error

    def _late(self) -> PuppetError:
        return PuppetError(f"no answer within {self._deadlines.call:g} s", late=True)


def endpoint_of(config: WechatSection) -> tuple[str, int]:
    """Host and port of the puppet service. Raises ConfigError."""
    address = config.endpoint.removeprefix("http://").removeprefix("grpc://").rstrip("/")
    host, separator, port = address.rpartition(":")
    if not separator or not host or re.search(r"[/\s]", host) or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        remedy = "Give host:port of your wechaty puppet service, for example 127.0.0.1:8788."
        raise ConfigError("wechat", "endpoint", config.endpoint, "is not host:port", remedy)
    return host.strip("[]"), int(port)


def _plain(error: BaseException) -> str:
    if isinstance(error, GRPCError):
        return f"{error.status.name}: {error.message or 'no detail'}"
    return str(error) or type(error).__name__


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
