"""wkteam's call-backs as core messages: pure functions, also used to read a log of raw call-backs.

Formats, both of the provider's documentation: the "optimised" one (``messageType`` 8xxxx in groups, 6xxxx in private chats) and the native one (9-12, and 14 for what WeChat
sends as XML).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from adapters.wechat.payloads import MENTION_SEPARATOR, PLATFORM, quote_in, recalled_id, sent_at, shown_text, without_mention, xml_value
from core.messages import Message, MessageKind, Recall

QUOTES = frozenset({"80014", "14"})
_KINDS = {
    "80001": MessageKind.TEXT,
    "80002": MessageKind.IMAGE,
    "80003": MessageKind.VIDEO,
    "80004": MessageKind.AUDIO,
    "80005": MessageKind.CARD,
    "80006": MessageKind.STICKER,
    "80007": MessageKind.LINK,
    "80008": MessageKind.FILE,
    "80009": MessageKind.FILE,
    "80010": MessageKind.CARD,
    "9": MessageKind.TEXT,
    "10": MessageKind.IMAGE,
    "11": MessageKind.VIDEO,
    "12": MessageKind.AUDIO,
}
_APP_KINDS = {"5": MessageKind.LINK, "6": MessageKind.FILE, "8": MessageKind.STICKER, "33": MessageKind.CARD, "36": MessageKind.CARD}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_callback(value: dict[str, Any], bot_id: str = "", *, received_at: datetime | None = None) -> Message | Recall | None:
    """One raw call-back as a message or a recall of a group.

    None for everything else: private chats, the bot's own messages (``data.self``, or its id), notices and tests of the call-back URL. ``bot_id`` defaults to the call-back's
    ``wcId``; ``received_at`` is used when the call-back has no time. Never raises for odd content.
    """
    data = value.get("data")
    group = _string(data.get("fromGroup")) if isinstance(data, dict) else ""
    if not isinstance(data, dict) or not group:
        return None
    at = sent_at(data.get("timestamp"), received_at or _EPOCH)
    content, sender = _string(data.get("content")), _string(data.get("fromUser"))
    message_type = _string(value.get("messageType"))
    if "<revokemsg>" in content and _may_be_notice(message_type, content):
        target = recalled_id(content)
        return Recall(PLATFORM, group, target, at) if target else None
    bot_id = bot_id or _string(value.get("wcId"))
    message_id = _string(data.get("newMsgId")) or _string(data.get("msgId"))
    if not sender or not message_id or data.get("self") is True or sender == bot_id:
        return None
    said = _said(message_type, content.removeprefix(f"{sender}:\n"), data)
    if said is None:
        return None
    kind, text, reply_to = said
    mentions = _mentions(data.get("atlist"))
    if kind is MessageKind.TEXT:
        text = _without_bot(text, mentions, bot_id)
    return Message(PLATFORM, group, message_id, sender, text, at, kind=kind, mentions=mentions, reply_to=reply_to, sender_name=_string(data.get("nickName")))


def _may_be_notice(message_type: str, content: str) -> bool:
    """False for what a member has written or shared: it may speak of recalls without being one."""
    if message_type == "14":
        return "<appmsg" not in content
    return message_type not in _KINDS and message_type not in QUOTES


def _said(message_type: str, content: str, data: dict[str, Any]) -> tuple[MessageKind, str, str | None] | None:
    """Kind, text and quoted id; None for a notice that nobody said."""
    if message_type in QUOTES and (quote := quote_in(content)) is not None:
        return MessageKind.TEXT, quote.text or _string(data.get("title")), quote.quoted_id
    if message_type == "80014":
        return MessageKind.TEXT, _string(data.get("title")) or content, None
    kind = _KINDS.get(message_type)
    if kind is None and message_type == "14" and "<appmsg" in content:
        kind = _APP_KINDS.get(xml_value(content, "type"), MessageKind.OTHER)
    if kind is None and message_type.startswith("80"):
        kind = MessageKind.OTHER
    return None if kind is None else (kind, shown_text(kind, content), None)


def _mentions(value: object) -> tuple[str, ...]:
    """``atlist`` is a list of ids, or the ids as one text."""
    if isinstance(value, str):
        value = re.split(r"[\s,\[\]\"']+", value)
    return tuple(mention for mention in value if isinstance(mention, str) and mention) if isinstance(value, list) else ()


def _without_bot(text: str, mentions: tuple[str, ...], bot_id: str) -> str:
    """The call-back does not tell the bot's name; where the bot alone is mentioned, the one mention in the text is its name."""
    names: tuple[str, ...] = ()
    if bot_id and mentions == (bot_id,):
        names = tuple(re.findall(rf"@([^@{MENTION_SEPARATOR}]+){MENTION_SEPARATOR}", text)[:1])
    return without_mention(text, names, mentioned=False)


def _string(value: object) -> str:
    """Ids come as text or as numbers."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return str(value)
