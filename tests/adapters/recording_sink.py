"""What an adapter delivers to in tests: a sink that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from core.messages import ConversationKey, Message, Recall
from core.ports import OutgoingReply


class ListedAnnouncements:
    """:class:`core.ports.Announcements` in memory. ``errors``: raised by the next additions."""

    def __init__(self) -> None:
        self.named: list[str] = []
        self.errors: list[Exception] = []

    async def add(self, platform: str, message_id: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        if message_id not in self.named:
            self.named.append(message_id)

    async def settle(self, platform: str, message_id: str) -> None:
        if message_id in self.named:
            self.named.remove(message_id)

    async def unsettled(self, platform: str) -> Sequence[str]:
        return list(self.named)


@dataclass
class RecordingSink:
    """A :class:`core.ports.MessageSink` that remembers, and that can be slow (:meth:`hold`) or fail (``errors``). ``waiting``: replies for platforms that fetch them."""

    messages: list[Message] = field(default_factory=list)
    recalls: list[Recall] = field(default_factory=list)
    joins: list[tuple[ConversationKey, str]] = field(default_factory=list)
    leaves: list[ConversationKey] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    waiting: list[OutgoingReply] = field(default_factory=list)
    announcements: ListedAnnouncements = field(default_factory=ListedAnnouncements)
    not_collected: set[str] = field(default_factory=set)
    entered: int = 0

    def __post_init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """From now on ``message`` does not return until :meth:`release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def collects(self, conversation: ConversationKey) -> bool:
        return conversation.chat_id not in self.not_collected

    async def message(self, message: Message) -> None:
        self.entered += 1
        await self._open.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.messages.append(message)

    async def recall(self, recall: Recall) -> None:
        self.recalls.append(recall)

    async def joined(self, conversation: ConversationKey, chat_name: str) -> None:
        self.joins.append((conversation, chat_name))

    async def left(self, conversation: ConversationKey) -> None:
        self.leaves.append(conversation)

    @asynccontextmanager
    async def fetch(self, platform: str, chat_id: str | None) -> AsyncIterator[Sequence[OutgoingReply]]:
        self.entered += 1
        await self._open.wait()
        ready = [reply for reply in self.waiting if reply.conversation.platform == platform and chat_id in (None, reply.conversation.chat_id)]
        yield ready
        self.waiting = [reply for reply in self.waiting if reply not in ready]

    def ids(self, chat_id: str = "chat-1") -> list[str]:
        return [message.message_id for message in self.messages if message.chat_id == chat_id]
