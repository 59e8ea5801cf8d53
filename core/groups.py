"""Groups that the bot works in: which are allowed, what their admins switched in the group itself, and what the storage knows of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from core.messages import ConversationKey


class ReplyMode(StrEnum):
    """What the bot says in a group: nothing, the resolved form of a question, or an answer to it."""

    OFF = "off"
    REWRITE = "rewrite"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class GroupState:
    """What was switched in a group. ``reply`` None: as ``[bot] reply`` of the config says."""

    enabled: bool = True
    reply: ReplyMode | None = None


class GroupStore(Protocol):
    """Durable group states."""

    async def load(self) -> dict[ConversationKey, GroupState]:
        """The states that were ever saved."""

    async def save(self, conversation: ConversationKey, state: GroupState) -> None:
        """Store the state of a group in place of an earlier one. Durable when it returns."""


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """Totals of one group. ``resolved``: questions whose current rewrite is accepted; ``replies``: what the bot said there."""

    messages: int
    questions: int
    judged: int
    resolved: int
    replies: int


class Statistics(Protocol):
    async def of_group(self, conversation: ConversationKey, since: datetime | None = None) -> GroupStatistics:
        """Totals of a group, of all time or since a moment. Raises StorageError."""


class Complaints(Protocol):
    async def wrong(self, conversation: ConversationKey, quoted: str | None) -> bool:
        """Note for the maintainers that the bot's reply ``quoted`` (a platform's message id; None: the last one) was wrong.

        False when there is no such reply. Raises StorageError.
        """


@dataclass(frozen=True, slots=True)
class PastReply:
    """A reply to a question that was queued ``at`` this time. ``member``: who had asked."""

    conversation: ConversationKey
    member: str
    at: datetime


class ReplyHistory(Protocol):
    async def replies_since(self, moment: datetime) -> Sequence[PastReply]:
        """Replies to questions that were queued after ``moment``, oldest first. Raises StorageError."""


class Groups:
    """Allow-list of the config together with the states that were switched in the groups."""

    def __init__(self, store: GroupStore, allowed: Collection[str], reply: ReplyMode = ReplyMode.OFF) -> None:
        """:param allowed: group ids as the platforms give them, or ``platform:id``. :param reply: mode of groups where none was switched."""
        self._store, self._allowed, self._reply = store, frozenset(allowed), reply
        self._states: dict[ConversationKey, GroupState] = {}

    async def load(self) -> None:
        """Read what earlier runs saved. Raises StorageError."""
        self._states = await self._store.load()

    def allowed(self, conversation: ConversationKey) -> bool:
        return conversation.chat_id in self._allowed or str(conversation) in self._allowed

    def enabled(self, conversation: ConversationKey) -> bool:
        return self._state(conversation).enabled

    def reply_mode(self, conversation: ConversationKey) -> ReplyMode:
        return self._state(conversation).reply or self._reply

    async def switch(self, conversation: ConversationKey, enabled: bool) -> None:
        """Switch the bot on or off in a group, over restarts. Raises StorageError."""
        await self._change(conversation, replace(self._state(conversation), enabled=enabled))

    async def set_reply(self, conversation: ConversationKey, mode: ReplyMode) -> None:
        """Set the reply mode of a group, over restarts. Raises StorageError."""
        await self._change(conversation, replace(self._state(conversation), reply=mode))

    async def _change(self, conversation: ConversationKey, state: GroupState) -> None:
        await self._store.save(conversation, state)
        self._states[conversation] = state

    def _state(self, conversation: ConversationKey) -> GroupState:
        return self._states.get(conversation, _UNTOUCHED)


_UNTOUCHED = GroupState()
