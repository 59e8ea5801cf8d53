"""Replies into groups: rate limits kept, back-off on refusals, one idempotency key for all attempts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

import structlog

from adapters.feishu.events import PLATFORM
from adapters.feishu.rest import ApiError, Rest
from core.clock import Clock
from core.errors import SendError
from core.ports import OutgoingReply

log = structlog.get_logger(__name__)

# Documented: 5 messages a second into one group, 50 API calls a second and 1000 a minute for an app.
GROUP_LIMITS = ((5, 1.0),)
APP_LIMITS = ((50, 1.0), (1000, 60.0))
ATTEMPTS = 4
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0


class RateLimit:
    """For each (number, seconds) of ``limits``: at most so many in any span of so many seconds, whenever it begins."""

    def __init__(self, limits: Sequence[tuple[int, float]], clock: Clock) -> None:
        self._clock = clock
        self._spans = [(deque[float](maxlen=number), seconds) for number, seconds in limits]

    async def take(self) -> None:
        """Wait for a place; those who wait are served in turn when they call under one lock."""
        while (wait := max(self._wait(times, seconds) for times, seconds in self._spans)) > 0:
            await self._clock.sleep(wait)
        for times, _ in self._spans:
            times.append(self._clock.monotonic())

    def _wait(self, times: deque[float], seconds: float) -> float:
        return times[0] + seconds - self._clock.monotonic() if len(times) == times.maxlen else 0.0


class _Group:
    """What is sent into one group goes in order and at the group's rate."""

    def __init__(self, clock: Clock) -> None:
        self.lock = asyncio.Lock()
        self.limit = RateLimit(GROUP_LIMITS, clock)


class Sender:
    """Sends and recalls the bot's messages."""

    def __init__(self, rest: Rest, clock: Clock, jitter: random.Random | None = None, groups: int = 2000) -> None:
        """:param groups: number of groups whose rate is remembered."""
        self._rest, self._clock, self._capacity = rest, clock, groups
        self._jitter = jitter or random.Random()
        self._app, self._app_lock = RateLimit(APP_LIMITS, clock), asyncio.Lock()
        self._groups: OrderedDict[str, _Group] = OrderedDict()

    async def send(self, reply: OutgoingReply) -> str:
        """Send and return the message id. Raises SendError."""
        chat_id = reply.conversation.chat_id
        mention = f'<at user_id="{_attribute(reply.mention)}"></at> ' if reply.mention else ""
        body: dict[str, Any] = {
            "msg_type": "text",
            "content": json.dumps({"text": mention + without_markup(reply.text)}, ensure_ascii=False),
            "uuid": idempotency_uuid(reply.idempotency_key),
        }
        group = self._group(chat_id)
        async with group.lock:
            if reply.reply_to:
                answer = await self._attempts(group, "POST", "/open-apis/im/v1/messages/:message_id/reply", {"message_id": reply.reply_to}, body)
            else:
                answer = await self._attempts(group, "POST", "/open-apis/im/v1/messages?receive_id_type=chat_id", {}, {"receive_id": chat_id, **body})
        return str((answer.get("data") or {}).get("message_id") or "")

    async def recall(self, chat_id: str, message_id: str) -> None:
        """Take back one of the bot's messages. Raises SendError."""
        group = self._group(chat_id)
        async with group.lock:
            await self._attempts(group, "DELETE", "/open-apis/im/v1/messages/:message_id", {"message_id": message_id}, None)

    async def _attempts(self, group: _Group, method: str, uri: str, paths: dict[str, str], body: object) -> dict[str, Any]:
        backoff = FIRST_BACKOFF_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            await group.limit.take()
            async with self._app_lock:
                await self._app.take()
            try:
                return await self._rest.call(method, uri, paths=paths, body=body)
            except ApiError as error:
                wait = max(error.retry_after or 0.0, backoff * self._jitter.uniform(1.0, 1.5))  # a platform that names no time, or 0, is not to be asked at once
                if not error.transient:
                    raise SendError(PLATFORM, _explained(error), permanent=True) from None
                if attempt == ATTEMPTS or self._rest.closed or wait > LONGEST_WAIT_SECONDS:
                    raise SendError(PLATFORM, _explained(error), retry_after=wait) from None
                log.info("feishu.send_retry", code=error.code, status=error.status, attempt=attempt, seconds=round(wait, 1))
                await self._clock.sleep(wait)
                backoff *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _group(self, chat_id: str) -> _Group:
        group = self._groups.get(chat_id)
        if group is None:
            group = self._groups[chat_id] = _Group(self._clock)
            for idle in [key for key, other in self._groups.items() if not other.lock.locked()][: max(0, len(self._groups) - self._capacity)]:
                if idle != chat_id:
                    del self._groups[idle]
        self._groups.move_to_end(chat_id)
        return group


def idempotency_uuid(key: str) -> str:
    """Feishu takes at most 50 characters, and shows a repeated one once within an hour (documented)."""
    return hashlib.sha256(key.encode()).hexdigest()[:48]


def without_markup(text: str) -> str:
    """Members' words are part of a reply: ``<at user_id="all">`` among them must not call the whole group."""
    return re.sub(r"<(?=\s*/?\s*at\b)", "＜", text, flags=re.IGNORECASE)


def _attribute(value: str) -> str:
    return re.sub(r"[^\w.@:-]", "", value)


_REMEDIES = {
    230002: "the bot is not in this group: add it in the group's settings",
    230006: "the app has no bot: enable the bot ability and publish a version",
    230013: "the bot is not available to this user: widen the app's availability",
    230018: "the group does not let the bot speak",
    230027: "a scope is missing: grant im:message:send_as_bot",
    99991672: "a scope is missing: grant im:message:send_as_bot",
}


def _explained(error: ApiError) -> str:
    remedy = _REMEDIES.get(error.code)
    return f"{error.problem} (code {error.code}, HTTP {error.status})" + (f"; {remedy}" if remedy else "")
