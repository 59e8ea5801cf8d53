"""WeChat payloads as core messages: pure functions, shared by the three providers."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from core.messages import MessageKind

PLATFORM = "wechat"
MENTION_SEPARATOR = "\u2005"
RECALLED = 13
_MILLISECONDS_FROM = 100_000_000_000  # as seconds this is the year 5138, as milliseconds March 1973

# The numbers of the TypeScript puppet (enum MessageType), which the services send whatever the Python stubs call them.
_KINDS = {
    1: MessageKind.FILE,
    2: MessageKind.AUDIO,
    3: MessageKind.CARD,
    5: MessageKind.STICKER,
    6: MessageKind.IMAGE,
    7: MessageKind.TEXT,
    9: MessageKind.CARD,
    10: MessageKind.SYSTEM,
    14: MessageKind.LINK,
    15: MessageKind.VIDEO,
}
_PLACE_HOLDERS = {
    MessageKind.IMAGE: "[图片]",
    MessageKind.FILE: "[文件]",
    MessageKind.AUDIO: "[语音]",
    MessageKind.VIDEO: "[视频]",
    MessageKind.STICKER: "[表情]",
    MessageKind.LINK: "[链接]",
    MessageKind.CARD: "[名片]",
    MessageKind.SYSTEM: "[系统消息]",
    MessageKind.OTHER: "[其他消息]",
}
_MESSAGE_ID = re.compile(r"[A-Za-z0-9_.:@\-]{1,128}")


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as a puppet service gives it. ``room_id`` is empty in a private chat; ``timestamp`` in seconds or milliseconds since 1970."""

    id: str
    room_id: str
    from_id: str
    text: str
    type: int
    timestamp: float
    mention_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quote:
    """A message that quotes another: what its author wrote, and the id of the quoted message where the payload tells it."""

    text: str
    quoted_id: str | None


def kind_of(type_number: int) -> MessageKind:
    """Every number has a kind; those that are not listed are ``OTHER``."""
    return _KINDS.get(type_number, MessageKind.OTHER)


def shown_text(kind: MessageKind, content: str) -> str:
    """The text of a message: its words, or a place-holder with the title that its XML gives (links and files)."""
    if kind is MessageKind.TEXT:
        return content
    title = xml_value(content, "title") if kind in (MessageKind.LINK, MessageKind.FILE) else ""
    return f"{_PLACE_HOLDERS[kind]} {title}".strip()


def sent_at(timestamp: object, fallback: datetime) -> datetime:
    """A time in seconds or milliseconds since 1970 (a number or digits) as aware UTC; ``fallback`` when there is none."""
    try:
        seconds = float(str(timestamp))
    except ValueError:
        return fallback
    if seconds >= _MILLISECONDS_FROM:
        seconds /= 1000
    if not 0 < seconds < _MILLISECONDS_FROM:
        return fallback
    return datetime.fromtimestamp(seconds, UTC)


def without_mention(text: str, names: Iterable[str], *, mentioned: bool) -> str:
    """``text`` less ``@name`` of the bot; other mentions stay readable.

    The separator U+2005 proves a mention; where a client left it out, ``@name`` before white space or the end counts when the platform says that the bot was ``mentioned``.
    """
    for name in sorted({name for name in names if name}, key=len, reverse=True):
        text = text.replace(f"@{name}{MENTION_SEPARATOR}", "")
        if mentioned:
            text = re.sub(rf"@{re.escape(name)}(?:\s|$)", "", text)
    return text.replace(MENTION_SEPARATOR, " ").strip()


def quote_in(content: str) -> Quote | None:
    """The quote in an ``appmsg`` XML with a ``refermsg``; None when ``content`` is none."""
    quoted = re.search(r"<refermsg>(.*?)</refermsg>", content, re.DOTALL)
    if quoted is None:
        return None
    outer = content[: quoted.start()] + content[quoted.end() :]
    return Quote(xml_value(outer, "title"), xml_value(quoted.group(1), "svrid") or None)


def recalled_id(content: str) -> str | None:
    """The id of the message that a recall notice names: the notice is that id itself, or a ``revokemsg`` XML; None when it tells only who recalled."""
    bare = content.strip()
    if _MESSAGE_ID.fullmatch(bare):
        return bare
    if "<revokemsg>" not in content:
        return None
    return xml_value(content, "newmsgid") or xml_value(content, "msgid") or None


def xml_value(content: str, tag: str) -> str:
    """The text of the first ``<tag>`` of WeChat's XML, "" without one.

    A pattern and not a parser: members can send any XML, and WeChat's own is often cut off or has a ``wxid:`` line before it.
    """
    found = re.search(rf"<{tag}>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))\s*</{tag}>", content, re.DOTALL)
    if found is None:
        return ""
    return (found.group(1) if found.group(1) is not None else html.unescape(found.group(2))).strip()
