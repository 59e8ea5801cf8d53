"""The way in: what adapters deliver is admitted or refused, stored durably, and published on the bus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

import structlog

from core.bus import EventBus
from core.clock import Clock, SystemClock
from core.commands import Command, parse_command
from core.config import as_entry
from core.consent import Consent
from core.delivery import NOTICE_PREFIX, ReplyQueue
from core.events import MessageRecalled, MessageStored
from core.groups import Groups
from core.messages import ConversationKey, Message, MessageKind, Recall
from core.ports import Announcements, Inbox, OutgoingReply
from core.text import clean_text
from core.timings import Observe, unobserved

log = structlog.get_logger(__name__)


class DropReason(StrEnum):
    """Why a message that arrived was not stored."""

    GROUP_NOT_ALLOWED = "group_not_allowed"
    SWITCHED_OFF = "switched_off"
    OPTED_OUT = "opted_out"
    COMMAND = "command"
    OWN = "own"


@dataclass(slots=True)
class IngestCounts:
    """What one platform delivered since the start. ``failed``: could not be stored, the platform is to deliver them again."""

    received: int = 0
    stored: int = 0
    duplicates: int = 0
    failed: int = 0
    recalled: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)


class CommandSink(Protocol):
    """Carries out commands that members type into a group."""

    async def handle(self, message: Message, command: Command, *, allowed: bool) -> None:
        """``allowed``: the group is one that the bot works in. Raises StorageError."""


class Ingest:
    """Implements :class:`core.ports.MessageSink`. Messages of a group that is not allowed, of members who opted out and of the bot itself go no further than this."""

    def __init__(
        self,
        inbox: Inbox,
        bus: EventBus,
        groups: Groups,
        consent: Consent,
        commands: CommandSink | None = None,
        replies: ReplyQueue | None = None,
        notice: str = "",
        *,
        announcements: Announcements | None = None,
        collect_all: bool = False,
        observe: Observe = unobserved,
        clock: Clock | None = None,
    ) -> None:
        """
        :param commands: None: command lines are dropped without effect.
        :param notice: posted once in each group that the bot works in, through ``replies``: when it joins, or before its first message is stored; "" for none.
        :param announcements: None: nothing is remembered (replays, the console).
        :param collect_all: take every group (replays, the console).
        """
        self._inbox, self._bus, self._groups, self._consent = inbox, bus, groups, consent
        self._commands, self._replies, self._notice = commands, replies, notice
        self._collect_all, self._observe, self._clock = collect_all, observe, clock or SystemClock()
        self.announcements: Announcements = announcements or _NoAnnouncements()
        self._introduced: set[ConversationKey] = set()
        self._own: set[tuple[str, str]] = set()
        self._refused_groups: set[ConversationKey] = set()
        self.counts: dict[str, IngestCounts] = {}

    def ignore_sender(self, platform: str, sender_id: str) -> None:
        """``sender_id`` is a bot of ours: its messages are never collected, also where another bot's platform delivers them."""
        self._own.add((platform, sender_id))

    # --- MessageSink

    def collects(self, conversation: ConversationKey) -> bool:
        """See :class:`core.ports.MessageSink`."""
        return self._collect_all or (self._groups.allowed(conversation) and self._groups.enabled(conversation))

    async def message(self, message: Message) -> None:
        """Returns when the message is stored (or refused) and may be acknowledged. Raises StorageError: do not acknowledge it then."""
        counts = self._of(message.platform)
        counts.received += 1
        command = parse_command(message.text) if message.kind is MessageKind.TEXT else None
        if command is not None and (message.platform, message.sender_id) not in self._own:
            counts.dropped[DropReason.COMMAND] += 1
            allowed = self._allowed(message.conversation, message.chat_name)
            if self._commands is not None:
                await self._commands.handle(message, command, allowed=allowed)
            return
        if (reason := self._refusal(message)) is not None:
            counts.dropped[reason] += 1
            return
        await self._introduce(message.conversation)
        await self._store([message], live=True)

    async def recall(self, recall: Recall) -> None:
        """Erase a message everywhere, also where it stands under another id. Raises StorageError."""
        message = await self._inbox.find(recall.conversation, recall.message_id)
        if message is None and not self._allowed(recall.conversation, ""):
            return  # nothing is stored of such a group, but what was, when it was allowed, goes
        copies = [] if message is None else await self._inbox.copies(message)
        for recalled in (*(replace(recall, message_id=copy.message_id) for copy in copies), recall):
            if await self._inbox.recall(recalled):
                self._of(recall.platform).recalled += 1
            await self._bus.publish(MessageRecalled(recalled))

    async def joined(self, conversation: ConversationKey, chat_name: str) -> None:
        """Post the privacy notice, once in the life of a group. Raises StorageError."""
        log.info("group_joined", platform=conversation.platform, group=conversation.chat_id, name=chat_name)
        if self._allowed(conversation, chat_name):
            await self._introduce(conversation)

    async def left(self, conversation: ConversationKey) -> None:
        log.info("group_left", platform=conversation.platform, group=conversation.chat_id)

    def fetch(self, platform: str, chat_id: str | None) -> AbstractAsyncContextManager[Sequence[OutgoingReply]]:
        """See :class:`core.ports.MessageSink`. Nothing waits where there are no replies."""
        return nullcontext(()) if self._replies is None else self._replies.fetch(platform, chat_id)

    # --- bulk

    async def messages(self, batch: Sequence[Message], *, live: bool = False) -> int:
        """Store and publish many at once, for replays. Command lines are dropped without effect. Returns how many were new. Raises StorageError."""
        admitted = []
        for message in batch:
            counts = self._of(message.platform)
            counts.received += 1
            reason = self._refusal(message)
            if reason is None and parse_command(message.text) is not None:
                reason = DropReason.COMMAND
            if reason is None:
                admitted.append(message)
            else:
                counts.dropped[reason] += 1
        return await self._store(admitted, live=live)

    # --- what they share

    async def _introduce(self, conversation: ConversationKey) -> None:
        """Queue the privacy notice where it was never queued: an admin allows most groups after the bot has joined them, and some platforms tell of no joining."""
        if self._replies is None or not self._notice or self._collect_all or conversation in self._introduced:
            return
        await self._replies.enqueue(OutgoingReply(conversation, self._notice, f"{NOTICE_PREFIX}{conversation}"))
        self._introduced.add(conversation)

    async def _store(self, messages: Sequence[Message], *, live: bool) -> int:
        started = self._clock.monotonic()
        try:
            new = await self._inbox.add([_cleaned(self._consent.without_refusers(message)) for message in messages])
        except Exception:  # counted, and raised again
            for message in messages:
                self._of(message.platform).failed += 1
            raise
        self._observe("store", self._clock.monotonic() - started)
        for message in messages:
            self._of(message.platform).duplicates += 1
        for message in new:
            counts = self._of(message.platform)
            counts.duplicates -= 1
            counts.stored += 1
            if self._consent.allows(message):  # its sender may have opted out while it was being stored
                await self._bus.publish(MessageStored(message, live=live))
        return len(new)

    def _refusal(self, message: Message) -> DropReason | None:
        if self._own and (message.platform, message.sender_id) in self._own:
            return DropReason.OWN
        if not self._allowed(message.conversation, message.chat_name):
            return DropReason.GROUP_NOT_ALLOWED
        if not self._groups.enabled(message.conversation):
            return DropReason.SWITCHED_OFF
        if not self._consent.allows(message):
            self._consent.heard(message)
            return DropReason.OPTED_OUT
        return None

    def _allowed(self, conversation: ConversationKey, name: str) -> bool:
        if self._collect_all or self._groups.allowed(conversation):
            return True
        if conversation not in self._refused_groups:
            self._refused_groups.add(conversation)
            remedy = f"to collect it, add {as_entry(conversation.chat_id)} to [bot] groups"
            log.warning("group_not_collected", platform=conversation.platform, group=conversation.chat_id, name=name, remedy=remedy)
        return False

    def _of(self, platform: str) -> IngestCounts:
        counts = self.counts.get(platform)
        if counts is None:
            counts = self.counts[platform] = IngestCounts()
        return counts


class _NoAnnouncements:
    """Remembers nothing."""

    async def add(self, platform: str, message_id: str) -> None: ...

    async def settle(self, platform: str, message_id: str) -> None: ...

    async def unsettled(self, platform: str) -> Sequence[str]:
        return ()


def _cleaned(message: Message) -> Message:
    text = clean_text(message.text)
    return message if text == message.text else replace(message, text=text)
