"""Who may be collected, and forgetting: in the database, and in what this process remembers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

import structlog

from core.antecedents import split_quote
from core.bus import EventBus
from core.clock import Clock
from core.context import HORIZON
from core.events import MessageRecalled, MessageStored
from core.messages import ConversationKey, Message, Recall
from core.ports import Inbox

log = structlog.get_logger(__name__)

_REMEMBERED = 5 * HORIZON  # more messages of a conversation than the pipeline keeps in memory


class MemberStore(Protocol):
    """Durable consent, and erasing on a member's wish. Members are (platform, sender id)."""

    async def opted_out(self) -> frozenset[tuple[str, str]]: ...

    async def opt_out(self, platform: str, sender_id: str) -> int:
        """Refuse the member from now on and erase what is stored. Returns the number of erased messages."""

    async def opt_in(self, platform: str, sender_id: str) -> None: ...

    async def forget(self, platform: str, sender_id: str) -> int:
        """Erase what is stored and leave the consent as it is. Returns the number of erased messages."""


class Consent:
    """Consent of members. Raises StorageError where a wish cannot be stored."""

    def __init__(self, store: MemberStore, inbox: Inbox, bus: EventBus, clock: Clock) -> None:
        self._store, self._inbox, self._bus, self._clock = store, inbox, bus, clock
        self._opted_out: set[tuple[str, str]] = set()
        self._names: dict[tuple[str, str], set[str]] = {}
        self._conversations: set[ConversationKey] = set()
        bus.subscribe(MessageStored, self._on_message)

    async def load(self) -> None:
        """Read the wishes of earlier runs."""
        self._opted_out = set(await self._store.opted_out())

    def allows(self, message: Message) -> bool:
        return not self._opted_out or (message.platform, message.sender_id) not in self._opted_out

    def heard(self, message: Message) -> None:
        """Remember, as long as this process lives, the name of a member who opted out: quotations as text tell no id."""
        self._names.setdefault((message.platform, message.sender_id), set()).add(message.shown_name)

    def without_refusers(self, message: Message) -> Message:
        """``message`` without the ids of members who opted out among its mentions, and without their words where it quotes them as text."""
        if not self._opted_out:
            return message
        kept = tuple(mention for mention in message.mentions if (message.platform, mention) not in self._opted_out)
        text = message.text
        if text.startswith("「"):
            quoted, _, own = split_quote(text)
            text = own if quoted and self._is_refuser(message.platform, quoted) else text
        return message if (kept, text) == (message.mentions, message.text) else replace(message, mentions=kept, text=text)

    def _is_refuser(self, platform: str, name: str) -> bool:
        return any(where == platform and name in {sender_id, *self._names.get((where, sender_id), ())} for where, sender_id in self._opted_out)

    def opted_out(self, platform: str, sender_id: str) -> bool:
        return (platform, sender_id) in self._opted_out

    async def opt_out(self, platform: str, sender_id: str) -> int:
        """Neither store nor publish the member's messages from now on, and forget what there is. Returns the number of erased messages."""
        member = (platform, sender_id)
        was_out = member in self._opted_out
        self._opted_out.add(member)  # before the store: what arrives meanwhile is not published
        try:
            return await self._erase(platform, sender_id, self._store.opt_out)
        except Exception:  # whatever failed: what is not stored must not look as if it were
            if not was_out:
                self._opted_out.discard(member)
            raise

    async def opt_in(self, platform: str, sender_id: str) -> None:
        await self._store.opt_in(platform, sender_id)
        self._opted_out.discard((platform, sender_id))

    async def forget(self, platform: str, sender_id: str) -> int:
        """Erase what is stored of the member. Returns the number of erased messages."""
        return await self._erase(platform, sender_id, self._store.forget)

    async def _erase(self, platform: str, sender_id: str, erase: Callable[[str, str], Awaitable[int]]) -> int:
        remembered = await self._remembered(platform, sender_id)
        erased = await erase(platform, sender_id)
        now = self._clock.now()
        for message in remembered:  # open utterances, contexts in memory and answers under way let go of them as of recalled messages
            await self._bus.publish(MessageRecalled(Recall(message.platform, message.chat_id, message.message_id, now)))
        log.info("member_erased", platform=platform, messages=erased)
        return erased

    async def _remembered(self, platform: str, sender_id: str) -> list[Message]:
        """The member's messages that memory may still hold, and those of others that quote him as text."""
        found: list[Message] = []
        for conversation in [known for known in self._conversations if known.platform == platform]:
            recent = await self._inbox.recent(conversation, _REMEMBERED)
            names = {sender_id, *(message.shown_name for message in recent if message.sender_id == sender_id)}
            found += [message for message in recent if message.sender_id == sender_id or split_quote(message.text)[0] in names]
        return found

    async def _on_message(self, event: MessageStored) -> None:
        self._conversations.add(event.conversation)
