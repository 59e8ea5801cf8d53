"""Replies whose words were erased (their question, or a line that they were made of, was recalled, or a member left) are taken back from the group too, where the platform can."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from core.bus import EventBus
from core.clock import Clock, SystemClock
from core.delivery import first_of
from core.errors import SendError, StorageError
from core.events import MessageRecalled
from core.messages import ConversationKey
from core.ports import Adapter

log = structlog.get_logger(__name__)

AGE = timedelta(hours=24)
"""Platforms let nobody take back what is older than this, or than less."""
LOOK_SECONDS = 60.0  # a reply may be erased while it is being sent, or by another process


class SentReply(Protocol):
    """A reply as its group sees it."""

    @property
    def key(self) -> str: ...
    @property
    def conversation(self) -> ConversationKey: ...
    @property
    def message_id(self) -> str: ...


class ErasedReplies(Protocol):
    """What the outbox knows of replies that were sent and then erased. Methods raise StorageError."""

    async def to_take_back(self, platform: str, since: datetime) -> Sequence[SentReply]:
        """Erased replies that were sent at ``since`` or later and still stand in their groups, oldest first."""

    async def taken_back(self, key: str) -> None:
        """The reply is gone, or cannot be taken back."""


class TakingBack:
    """One loop for each platform that can recall: it looks when a message was recalled or erased, and once a minute."""

    def __init__(self, bus: EventBus, erased: ErasedReplies, adapters: Mapping[str, Adapter], clock: Clock | None = None) -> None:
        """:param adapters: by platform."""
        self._erased, self._clock = erased, clock or SystemClock()
        self._adapters = {platform: adapter for platform, adapter in adapters.items() if adapter.capabilities.recalls}
        self._wake = {platform: asyncio.Event() for platform in self._adapters}
        self._tasks: list[asyncio.Task[None]] = []
        bus.subscribe(MessageRecalled, self._on_recalled)

    async def start(self) -> None:
        """Take back what earlier runs left, and what is erased from now on, until :meth:`stop`."""
        self._tasks = [asyncio.create_task(self._run(platform), name=f"taking back {platform}") for platform in self._adapters]

    async def stop(self) -> None:
        """What is left is taken back by the next run. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _on_recalled(self, event: MessageRecalled) -> None:
        wake = self._wake.get(event.conversation.platform)
        if wake is not None:
            wake.set()

    async def _run(self, platform: str) -> None:
        wake = self._wake[platform]
        while True:
            wake.clear()
            try:
                for reply in await self._erased.to_take_back(platform, self._clock.now() - AGE):
                    await self._take_back(self._adapters[platform], reply)
            except StorageError as error:
                log.error("outbox_unusable", platform=platform, problem=error.problem, remedy=error.remedy)
            await first_of(wake.wait(), self._clock.sleep(LOOK_SECONDS))

    async def _take_back(self, adapter: Adapter, reply: SentReply) -> None:
        try:
            await adapter.recall(reply.conversation, reply.message_id)
        except SendError as error:
            log.info("reply_not_taken_back", platform=adapter.platform, key=reply.key, problem=error.problem, final=error.permanent)
            if not error.permanent:
                return
        except Exception as error:  # a defect of an adapter must not end the loop
            log.error("recall_failed", platform=adapter.platform, key=reply.key, error=type(error).__name__)
            log.debug("recall_failed_detail", key=reply.key, detail=str(error))
        else:
            log.info("reply_taken_back", platform=adapter.platform, key=reply.key)
        await self._erased.taken_back(reply.key)
