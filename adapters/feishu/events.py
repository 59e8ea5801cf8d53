"""Feishu's event payloads as values of ours. Pure: JSON in, value out; names are looked up later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from adapters.feishu.content import flatten, mentioned_ids, open_id, storable
from core.messages import ConversationKey, Message, Recall

PLATFORM = "feishu"


class Ignored(StrEnum):
    """Why an event is acknowledged and goes no further."""

    OTHER_TYPE = "other_type"
    MALFORMED = "malformed"
    OWN = "own"
    CARD = "card"
    NOT_A_GROUP = "not_a_group"


@dataclass(frozen=True, slots=True)
class BotIdentity:
    """Who the bot is. ``open_id`` is "" until the platform has told it."""

    app_id: str
    open_id: str = ""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message without the names of chat and sender. ``names``: members' names that the event itself tells, by open_id."""

    message: Message
    names: tuple[tuple[str, str], ...] = ()

    @property
    def conversation(self) -> ConversationKey:
        return self.message.conversation


@dataclass(frozen=True, slots=True)
class Joined:
    """The bot was added to a group."""

    conversation: ConversationKey
    chat_name: str


@dataclass(frozen=True, slots=True)
class Left:
    """The bot was removed from a group, or the group was dissolved."""

    conversation: ConversationKey


@dataclass(frozen=True, slots=True)
class Renamed:
    """A group has a new name."""

    conversation: ConversationKey
    chat_name: str


GroupEvent = NewMessage | Recall | Joined | Left | Renamed


def parse_event(payload: object, bot: BotIdentity, now: datetime) -> GroupEvent | Ignored:
    """The event that a decoded payload (schema 2.0) carries, or why it is not for us. Never raises.

    :param now: stands in where the platform gave no time.
    """
    if not isinstance(payload, Mapping):
        return Ignored.MALFORMED
    header, event = payload.get("header"), payload.get("event")
    if not isinstance(header, Mapping) or not isinstance(event, Mapping):
        return Ignored.OTHER_TYPE  # schema 1.0 and connection tests
    match header.get("event_type"):
        case "im.message.receive_v1":
            return _new_message(event, bot, _time(header.get("create_time")) or now)
        case "im.message.recalled_v1":
            conversation, message_id = _conversation(event), event.get("message_id")
            if conversation is None or not isinstance(message_id, str) or not message_id:
                return Ignored.MALFORMED
            return Recall(PLATFORM, conversation.chat_id, message_id, _time(event.get("recall_time")) or now)
        case "im.chat.member.bot.added_v1":
            conversation = _conversation(event)
            return Joined(conversation, storable(str(event.get("name") or ""))) if conversation else Ignored.MALFORMED
        case "im.chat.member.bot.deleted_v1" | "im.chat.disbanded_v1":
            conversation = _conversation(event)
            return Left(conversation) if conversation else Ignored.MALFORMED
        case "im.chat.updated_v1":
            conversation, after = _conversation(event), event.get("after_change")
            name = after.get("name") if isinstance(after, Mapping) else None
            return Renamed(conversation, storable(name)) if conversation and isinstance(name, str) and name else Ignored.OTHER_TYPE
        case _:
            return Ignored.OTHER_TYPE


def _new_message(event: Mapping[str, Any], bot: BotIdentity, event_time: datetime) -> NewMessage | Ignored:
    message, sender = event.get("message"), event.get("sender")
    if not isinstance(message, Mapping) or not isinstance(sender, Mapping):
        return Ignored.MALFORMED
    sender_id, message_id, conversation = open_id(sender.get("sender_id")), message.get("message_id"), _conversation(message)
    if conversation is None or not isinstance(message_id, str) or not message_id:
        return Ignored.MALFORMED
    if message.get("chat_type") == "p2p":
        return Ignored.NOT_A_GROUP
    if _is_own(sender, sender_id, bot):
        return Ignored.OWN
    if message.get("message_type") == "interactive":
        return Ignored.CARD
    if not sender_id:
        return Ignored.MALFORMED
    listed = message.get("mentions")
    mentions = [mention for mention in listed if isinstance(mention, Mapping)] if isinstance(listed, list) else []
    content = str(message.get("content") or "")
    kind, text = flatten(str(message.get("message_type")), content, mentions, bot.open_id)
    names = tuple((open_id(mention.get("id")), storable(str(mention.get("name")))) for mention in mentions if open_id(mention.get("id")) and mention.get("name"))
    return NewMessage(
        Message(
            platform=PLATFORM,
            chat_id=conversation.chat_id,
            message_id=message_id,
            sender_id=sender_id,
            text=text,
            sent_at=_time(message.get("create_time")) or event_time,
            kind=kind,
            mentions=mentioned_ids(content, mentions),
            reply_to=_id(message.get("parent_id")) or _id(message.get("root_id")),
            thread_id=_id(message.get("thread_id")) or _id(message.get("root_id")),
        ),
        names,
    )


def _is_own(sender: Mapping[str, Any], sender_id: str, bot: BotIdentity) -> bool:
    if bot.open_id and sender_id:
        return sender_id == bot.open_id
    # As long as the bot does not know its own id, no app is listened to: an echo that is answered would be a loop.
    return sender.get("sender_type") in ("app", "bot")


def _conversation(fields: Mapping[str, Any]) -> ConversationKey | None:
    chat_id = _id(fields.get("chat_id"))
    return ConversationKey(PLATFORM, chat_id) if chat_id else None


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(milliseconds: object) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(str(milliseconds)) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
