"""The way out: replies wait in the durable outbox; one loop per platform claims those that are due and sends them, in order within a group and without making one
group wait for another. A platform that fetches its replies finds them there.

A reply is sent once where the platform knows idempotency keys. Where it does not, an attempt is marked as *unconfirmed* in the outbox before it begins, and the mark is
cleared when its outcome is known, so that a crash in between costs at most one repetition, however often the program dies. A time-out or a cut connection (a SendError that is
neither permanent nor names ``retry_after``) leaves the mark too: the group may have seen the reply.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

import structlog

from core.clock import Clock, SystemClock
from core.errors import SendError, StorageError
from core.messages import ConversationKey
from core.ports import Adapter, OutgoingReply
from core.timings import Observe, unobserved

log = structlog.get_logger(__name__)

REPLY_PREFIX = "reply:"
"""Idempotency keys of replies to questions: this and the question's id."""
NOTICE_PREFIX = "notice:"
"""Idempotency keys of privacy notices: this and the conversation. They do not grow old as replies do, and a refusal is not the end of them."""

NOTICE_AGE = timedelta(days=7)
NOTICE_PAUSE = timedelta(hours=1)
LEASE = timedelta(seconds=120)
CLAIM_AT_ONCE = 20
POLL_SECONDS = 15.0  # another process may have queued something for our platform
STORAGE_PAUSE_SECONDS = 5.0
UNFETCHED_CHECK_SECONDS = 60.0
LONGEST_BACKOFF_SECONDS = 300.0
MOST_UNCONFIRMED = 2
PATIENCE = 60
"""A reply that has waited so many seconds waits a second more at least: a notice, which waits for days while there is no connection, is not tried every second."""

_UNCONFIRMED = re.compile(r"\[unconfirmed (\d+)\]$")


class ClaimedReply(Protocol):
    """A reply as the outbox hands it out. ``attempts`` counts claims, this one among them; ``error`` is what the last attempt left."""

    @property
    def reply(self) -> OutgoingReply: ...
    @property
    def attempts(self) -> int: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def error(self) -> str: ...


class Outbox(Protocol):
    """Durable queue of replies. All methods raise StorageError."""

    async def enqueue(self, reply: OutgoingReply) -> bool:
        """False, and nothing happens, when the idempotency key was queued before, or a message that the reply was made of was erased meanwhile."""

    async def get(self, key: str) -> object | None:
        """What is known of an idempotency key, or None."""

    async def waits(self, key: str) -> bool:
        """Whether a reply is still to be sent: since it was claimed it may have been withdrawn, or erased with its question."""

    async def withdraw(self, conversation: ConversationKey, prefix: str) -> int:
        """Give up the replies that wait in a group and whose key begins with ``prefix``. Returns how many."""

    async def claim(self, platform: str, limit: int = ..., lease: timedelta = ..., chat_id: str | None = ..., without: Collection[str] = ...) -> Sequence[ClaimedReply]:
        """Due replies (of one group, where ``chat_id`` names it, and of none of ``without``), oldest first; due again after ``lease`` unless marked."""

    async def sent(self, key: str, platform_message_id: str) -> None: ...

    async def retry(self, key: str, error: str, after: timedelta) -> None: ...

    async def failed(self, key: str, error: str) -> None: ...

    async def expire(self, platform: str, max_age: timedelta, spared: str = ...) -> int:
        """Give up replies that have waited longer than ``max_age``, but for those whose key begins with ``spared``. Returns how many."""

    async def next_due(self, platform: str, without: Collection[str] = ...) -> datetime | None: ...


class ReplyQueue(Protocol):
    """Where replies are handed in."""

    async def enqueue(self, reply: OutgoingReply) -> bool:
        """Queue a reply durably. False when its idempotency key was queued before, or a message that it was made of was erased meanwhile. Raises StorageError."""

    async def known(self, key: str) -> bool:
        """Whether a reply of this idempotency key was ever queued. Raises StorageError."""

    async def withdraw(self, conversation: ConversationKey) -> None:
        """Give up the replies to questions that wait in a group. Raises StorageError."""

    def fetch(self, platform: str, chat_id: str | None) -> AbstractAsyncContextManager[Sequence[OutgoingReply]]:
        """As :meth:`core.ports.MessageSink.fetch`."""


class Outcome(StrEnum):
    """What became of an attempt."""

    SENT = "sent"
    RETRIED = "retried"
    REFUSED = "refused"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    UNCONFIRMED = "unconfirmed"


class Delivery:
    """Implements :class:`ReplyQueue` and sends what is queued through the adapters."""

    def __init__(self, outbox: Outbox, adapters: Mapping[str, Adapter], max_age: timedelta, *, observe: Observe = unobserved, clock: Clock | None = None) -> None:
        """:param adapters: by platform. :param max_age: replies that waited longer are not sent any more."""
        self._outbox, self._adapters, self._max_age = outbox, dict(adapters), max_age
        self._observe, self._clock = observe, clock or SystemClock()
        self._wake = {platform: asyncio.Event() for platform in adapters}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.counts: dict[str, Counter[Outcome]] = {platform: Counter() for platform in adapters}

    async def enqueue(self, reply: OutgoingReply) -> bool:
        queued = await self._outbox.enqueue(reply)
        if queued and (wake := self._wake.get(reply.conversation.platform)) is not None:
            wake.set()
        return queued

    async def known(self, key: str) -> bool:
        return await self._outbox.get(key) is not None

    async def withdraw(self, conversation: ConversationKey) -> None:
        withdrawn = await self._outbox.withdraw(conversation, REPLY_PREFIX)
        if withdrawn and conversation.platform in self.counts:
            self.counts[conversation.platform][Outcome.WITHDRAWN] += withdrawn

    async def start(self) -> None:
        """Send what is due and what becomes due, until :meth:`stop`."""
        self._stopping = False
        loops = {platform: self._watch_unfetched(platform) if adapter.capabilities.fetches else self._run(platform) for platform, adapter in self._adapters.items()}
        self._tasks = [asyncio.create_task(loop, name=f"delivery {platform}") for platform, loop in loops.items()]

    async def stop(self, timeout: float = 10.0) -> None:
        """Claim no more, give what is being sent ``timeout`` seconds, then cancel it: the outbox hands it out again. Idempotent."""
        self._stopping = True
        for wake in self._wake.values():
            wake.set()
        if self._tasks:
            _, unfinished = await asyncio.wait(self._tasks, timeout=timeout)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    @asynccontextmanager
    async def fetch(self, platform: str, chat_id: str | None) -> AsyncIterator[Sequence[OutgoingReply]]:
        ready = []
        for claimed in await self._outbox.claim(platform, CLAIM_AT_ONCE, LEASE, chat_id):
            outcome = await self._begin(platform, claimed, idempotent=False)
            if outcome is None:
                ready.append(claimed)
            else:
                self.counts[platform][outcome] += 1
        try:
            yield [claimed.reply for claimed in ready]
        except BaseException:
            for claimed in ready:
                await self._outbox.retry(claimed.reply.idempotency_key, claimed.error, timedelta())
            self.counts[platform][Outcome.RETRIED] += len(ready)
            raise
        for claimed in ready:
            await self._outbox.sent(claimed.reply.idempotency_key, "")
        self.counts[platform][Outcome.SENT] += len(ready)

    async def _watch_unfetched(self, platform: str) -> None:
        """Give up what nobody fetches in time, and say so."""
        wake = self._wake[platform]
        while not self._stopping:
            wake.clear()
            try:
                expired = await self._outbox.expire(platform, self._max_age, NOTICE_PREFIX)
                if expired:
                    self.counts[platform][Outcome.EXPIRED] += expired
                    log.warning("replies_not_fetched", platform=platform, number=expired, remedy="the program that fetches them does not run, or not in that group")
            except StorageError as error:
                log.error("outbox_unusable", platform=platform, problem=error.problem, remedy=error.remedy)
            await first_of(wake.wait(), self._clock.sleep(UNFETCHED_CHECK_SECONDS))

    async def _run(self, platform: str) -> None:
        wake = self._wake[platform]
        sending: dict[str, asyncio.Task[None]] = {}
        try:
            while not self._stopping:
                wake.clear()
                sending = {chat_id: task for chat_id, task in sending.items() if not task.done()}
                try:
                    if await self._send_due(platform, sending):
                        continue
                    pause = await self._until_due(platform, sending)
                except StorageError as error:
                    log.error("outbox_unusable", platform=platform, problem=error.problem, remedy=error.remedy)
                    pause = STORAGE_PAUSE_SECONDS
                if not self._stopping:
                    await first_of(wake.wait(), self._clock.sleep(pause))
            await asyncio.gather(*sending.values())
        finally:
            for task in sending.values():
                task.cancel()

    async def _until_due(self, platform: str, busy: Collection[str]) -> float:
        due = await self._outbox.next_due(platform, busy)
        if due is None:
            return POLL_SECONDS
        return min(POLL_SECONDS, max(0.01, (due - self._clock.now()).total_seconds()))

    async def _send_due(self, platform: str, sending: dict[str, asyncio.Task[None]]) -> bool:
        """Begin to send what is due in the groups that are not among ``sending`` (tasks by chat id), and add them to it. False when nothing was due."""
        lease_ends = self._clock.now() + LEASE
        groups: dict[str, list[ClaimedReply]] = {}
        for claimed in await self._outbox.claim(platform, CLAIM_AT_ONCE, LEASE, without=sending):
            groups.setdefault(claimed.reply.conversation.chat_id, []).append(claimed)
        for chat_id, waiting in groups.items():
            task = sending[chat_id] = asyncio.create_task(self._send_in_order(platform, waiting, lease_ends), name=f"delivery {platform} {chat_id}")
            task.add_done_callback(lambda _: self._wake[platform].set())
        return bool(groups)

    async def _send_in_order(self, platform: str, waiting: Sequence[ClaimedReply], lease_ends: datetime) -> None:
        for claimed in waiting:
            if self._clock.now() >= lease_ends:
                return  # the rest is due again, perhaps already in another process
            try:
                outcome = await self._send(self._adapters[platform], claimed)
            except StorageError as error:  # the lease runs out, and the reply is due again
                log.error("outbox_unusable", platform=platform, problem=error.problem, remedy=error.remedy)
                return
            self.counts[platform][outcome] += 1

    async def _send(self, adapter: Adapter, claimed: ClaimedReply) -> Outcome:
        reply, key = claimed.reply, claimed.reply.idempotency_key
        if (outcome := await self._begin(adapter.platform, claimed, idempotent=adapter.capabilities.idempotent_send)) is not None:
            return outcome
        unconfirmed = _unconfirmed(claimed.error)
        started = self._clock.monotonic()
        try:
            message_id = await adapter.send(reply)
        except SendError as error:
            definite = adapter.capabilities.idempotent_send or error.retry_after is not None
            return await self._refused(adapter.platform, claimed, error, unconfirmed if definite else unconfirmed + 1)
        except Exception as error:  # a defect of an adapter must not end the loop; whether the group saw the reply is unknown
            log.error("send_failed", platform=adapter.platform, key=key, error=type(error).__name__)
            log.debug("send_failed_detail", key=key, detail=str(error))
            await self._outbox.retry(key, _marked(type(error).__name__, unconfirmed + 1), _backoff(unconfirmed + 1))
            return Outcome.RETRIED
        await self._outbox.sent(key, message_id)
        self._observe("send", self._clock.monotonic() - started)
        return Outcome.SENT

    async def _begin(self, platform: str, claimed: ClaimedReply, *, idempotent: bool) -> Outcome | None:
        """What ends a reply before this attempt, or None; then, where the platform knows no keys, the attempt is marked as unconfirmed."""
        key, age, unconfirmed = claimed.reply.idempotency_key, self._clock.now() - claimed.created_at, _unconfirmed(claimed.error)
        if not await self._outbox.waits(key):
            return Outcome.WITHDRAWN
        if age > (NOTICE_AGE if key.startswith(NOTICE_PREFIX) else self._max_age):
            await self._outbox.failed(key, "too old")
            log.info("reply_expired", platform=platform, key=key, age_seconds=round(age.total_seconds()))
            return Outcome.EXPIRED
        if idempotent:
            return None
        if unconfirmed >= MOST_UNCONFIRMED:
            await self._outbox.failed(key, "whether the group saw it is unknown for two attempts")
            log.warning("reply_given_up", platform=platform, key=key, reason="unconfirmed")
            return Outcome.UNCONFIRMED
        await self._outbox.retry(key, _marked("", unconfirmed + 1), LEASE)
        return None

    async def _refused(self, platform: str, claimed: ClaimedReply, error: SendError, unconfirmed: int) -> Outcome:
        key = claimed.reply.idempotency_key
        if error.permanent:
            log.warning("reply_refused", platform=platform, key=key, problem=error.problem)
            if key.startswith(NOTICE_PREFIX):  # it is queued once, and its group is collected: an admin may grant the scope, or let the bot speak
                await self._outbox.retry(key, _marked(error.problem, _unconfirmed(claimed.error)), NOTICE_PAUSE)
                return Outcome.RETRIED
            await self._outbox.failed(key, error.problem)
            return Outcome.REFUSED
        # Where some attempts are in doubt these alone count: those while there was no connection say nothing of how busy the platform is.
        after = timedelta(seconds=error.retry_after) if error.retry_after is not None else _backoff(unconfirmed or claimed.attempts)
        after = max(after, min((self._clock.now() - claimed.created_at) / PATIENCE, timedelta(seconds=LONGEST_BACKOFF_SECONDS)))
        await self._outbox.retry(key, _marked(error.problem, unconfirmed), after)
        log.info("reply_retried", platform=platform, key=key, attempt=claimed.attempts, after_seconds=after.total_seconds(), problem=error.problem)
        return Outcome.RETRIED


def _backoff(attempts: int) -> timedelta:
    return timedelta(seconds=min(LONGEST_BACKOFF_SECONDS, 2.0 ** min(attempts, 20)))


def _unconfirmed(error: str) -> int:
    """Number of earlier attempts whose outcome nobody knows."""
    match = _UNCONFIRMED.search(error)
    return int(match.group(1)) if match else 0


def _marked(problem: str, unconfirmed: int) -> str:
    return f"{problem} [unconfirmed {unconfirmed}]".lstrip() if unconfirmed else problem


async def first_of(*works: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of ``works`` is over and cancel the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
