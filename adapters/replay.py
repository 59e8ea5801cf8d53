"""Logged chats as core messages: JSON lines, IRC logs, and logs of raw WeChat call-backs. The form of a file is recognised from its first lines.

Readers are generators over the file: they hold one line (or one call-back) in memory. What cannot be used is a :class:`BadLine` and never ends the reading.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

from adapters.wechat.wkteam_payloads import parse_callback
from core.errors import InputError
from core.messages import Message, MessageKind, Recall
from core.text import clean_text

PLATFORM = "replay"
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(days=1)
_MILLISECONDS_FROM = 100_000_000_000  # as seconds this is the year 5138, as milliseconds March 1973
_SNIFFED_LINES = 20
_CALLBACK_LINES = 20_000
_CALLBACK_ATTEMPTS = 200
_KINDS = {kind.value: kind for kind in MessageKind}
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
_DECODER = json.JSONDecoder(strict=False)  # control characters inside texts are let through, and cleaned later
_IRC_LINE = re.compile(r"\[(\d{1,2}):(\d{2})(?::(\d{2}))?\]\s?(?:<[ @+%&~]?([^>]+)>\s?(.*)|\*\s+(\S+)\s+(.*)|((?:===|-!-|\*\*\*).*))$", re.DOTALL)
_IRC_SYSTEM = re.compile(r"(?:===|-!-|\*\*\*|---)\s")
_IRC_START = re.compile(r"\[\d{1,2}:\d{2}(?::\d{2})?\]|===\s")
_FILE_DATE = re.compile(r"(?<!\d)(\d{4})-(\d{2})-(\d{2})(?!\d)")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was skipped. ``number`` counts from 1; ``reason`` holds no text of the chat."""

    number: int
    reason: str


Item: TypeAlias = Message | Recall | BadLine


class _UnusableError(Exception):
    """Why a line cannot be used."""


def read_chat(path: Path, now: datetime | None = None) -> Iterator[Item]:
    """The messages of a chat log, in the order of the file. ``now`` (default: the machine's clock) is what times are absurd against.

    :raises InputError: when the file cannot be read, or is no UTF-8 text at all.
    """
    latest = (now or datetime.now(UTC)) + _AHEAD
    try:
        with path.open("rb") as file:
            head = file.read(4)
            if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise InputError(str(path), "is UTF-16 text", "Save it as UTF-8.")
            file.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)
            start = file.tell()
            reader = _reader([line for _, line in zip(range(_SNIFFED_LINES), _lines(file), strict=False)])
            file.seek(start)
            yield from reader(_lines(file), path, latest)
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}", "Check the path and its permissions.") from None


_Reader: TypeAlias = Callable[[Iterator[str], Path, datetime], Iterator[Item]]


def _lines(file: Any) -> Iterator[str]:
    """Lines without their ends. What is no UTF-8 becomes U+FFFD: one bad byte must not cost the message."""
    for raw in file:
        yield raw.rstrip(b"\r\n").decode("utf-8", "replace")


def _reader(lines: list[str]) -> _Reader:
    """By the first line that tells: an IRC line, a call-back, or a JSON object. JSON lines when none does: they say what is wrong."""
    for line in lines:
        start = line.lstrip()
        if _IRC_START.match(start):
            return _read_irc
        if start.rstrip() == "{":
            return _read_callbacks
        if start.startswith("{"):
            value = _loads(start)
            if isinstance(value, dict):
                return _read_callbacks if "messageType" in value or isinstance(value.get("data"), dict) else _read_jsonl
    return _read_jsonl


def _loads(text: str) -> Any:
    """The JSON value of ``text``, or None when it is none (also when it nests too deep)."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


class _Ids:
    """Ids for messages that have none: equal for equal messages in every run and every copy of a log, and different for a message that was really said twice."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def of(self, chat: str, sender: str, at: object, text: str) -> str:
        digest = blake2b("\0".join((chat, sender, str(at), text)).encode("utf-8", "replace"), digest_size=12).digest()
        occurrence = self._seen[digest] = self._seen.get(digest, -1) + 1
        return f"h{digest.hex()}" + (f"-{occurrence}" if occurrence else "")


# --- JSON lines


def _read_jsonl(lines: Iterator[str], path: Path, latest: datetime) -> Iterator[Item]:
    ids = _Ids()
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        try:
            yield _chat_line(_DECODER.decode(line), ids, latest)
        except _UnusableError as bad:
            yield BadLine(number, str(bad))
        except json.JSONDecodeError as error:
            yield BadLine(number, f"not JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError):
            yield BadLine(number, "not JSON that can be read: a number too long, or nested too deep")


def _chat_line(value: Any, ids: _Ids, latest: datetime) -> Message | Recall:
    if not isinstance(value, dict):
        raise _UnusableError("not a JSON object")
    get = value.get
    platform = _text(value, "platform") or PLATFORM
    chat = _required(value, "chat_id")
    at = parse_time(get("sent_at"), latest)
    kind_name = get("kind") or "text"
    if not isinstance(kind_name, str):
        raise _UnusableError("kind is no text")
    reply_to = _text(value, "reply_to") or None
    if kind_name == "recall":
        if reply_to is None:
            raise _UnusableError("a recall needs reply_to, the id of the recalled message")
        return Recall(platform, chat, reply_to, at)
    kind = _KINDS.get(kind_name, MessageKind.OTHER)
    sender = _required(value, "sender_id")
    text = get("text")
    if not isinstance(text, str) and not (text is None and kind is not MessageKind.TEXT):
        raise _UnusableError("text is missing" if text is None else "text is no text")
    text = clean_text(text or "")
    if not text or text.isspace():
        text = _PLACE_HOLDERS.get(kind, "")
        if not text:
            raise _UnusableError("text is empty")
    return Message(
        platform,
        chat,
        _text(value, "message_id") or ids.of(chat, sender, at, text),
        sender,
        text,
        at,
        _text(value, "chat_name"),
        _text(value, "sender_name"),
        kind,
        _mentions(get("mentions")),
        reply_to,
        _text(value, "thread_id") or None,
    )


def _text(value: dict[str, Any], key: str) -> str:
    """A text or a number as text; "" when it is not there."""
    found = value.get(key)
    if found is None:
        return ""
    if isinstance(found, str):
        return clean_text(found)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    raise _UnusableError(f"{key} is neither text nor a whole number")


def _required(value: dict[str, Any], key: str) -> str:
    found = _text(value, key)
    if not found:
        raise _UnusableError(f"{key} is missing or empty")
    return found


def _mentions(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(mention, str) for mention in value):
        raise _UnusableError("mentions is no list of texts")
    return tuple(clean_text(mention) for mention in value)


def parse_time(value: object, latest: datetime) -> datetime:
    """ISO-8601 (without a zone: UTC) or seconds or milliseconds since 1970, as aware UTC, not before 2000 and not after ``latest``."""
    if value is None:
        raise _UnusableError("sent_at is missing")
    try:
        if isinstance(value, str):
            at = _from_text(value.strip())
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            at = _from_number(float(value))
        else:
            raise _UnusableError("sent_at is neither text nor number")
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise _UnusableError("sent_at is no time: give ISO-8601 or seconds since 1970") from None
    return checked_time(at, latest)


def checked_time(at: datetime, latest: datetime) -> datetime:
    if at < EARLIEST:
        raise _UnusableError("sent_at lies before the year 2000")
    if at > latest:
        raise _UnusableError("sent_at lies more than a day in the future")
    return at


def _from_text(text: str) -> datetime:
    if len(text) >= 9 and text.replace(".", "", 1).isdecimal():
        return _from_number(float(text))
    return datetime.fromisoformat(text)


def _from_number(number: float) -> datetime:
    if not math.isfinite(number):
        raise ValueError("not finite")
    return datetime.fromtimestamp(number / 1000 if abs(number) >= _MILLISECONDS_FROM else number, UTC)


# --- IRC logs


def _read_irc(lines: Iterator[str], path: Path, latest: datetime) -> Iterator[Item]:
    """``[HH:MM] <nick> text``. The date is that of the file's name, else 1 January 2000; a clock that runs back by half a day or more passed midnight.

    System lines have the time of the line before them.
    """
    ids, chat = _Ids(), clean_text(path.stem)
    day = _irc_date(path)
    last = day
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        match = _IRC_LINE.match(line)
        if match is None and not _IRC_SYSTEM.match(line):
            yield BadLine(number, "no IRC line: expected [HH:MM] <nick> text")
            continue
        nick, text, kind = "*", line, MessageKind.SYSTEM
        if match is not None:
            hour, minute, second = (int(part or 0) for part in match.group(1, 2, 3))
            if hour > 23 or minute > 59 or second > 59:
                yield BadLine(number, "no time of the day")
                continue
            at = day + timedelta(hours=hour, minutes=minute, seconds=second)
            if at < last - timedelta(hours=12):
                day, at = day + timedelta(days=1), at + timedelta(days=1)
            last = max(last, at)
            if match[8] is None:
                nick, text, kind = (match[4] or match[6]).strip(), match[5] if match[4] is not None else match[7], MessageKind.TEXT
            else:
                text = match[8]
        nick, text = clean_text(nick), clean_text(text)
        if not nick or not text.strip():
            yield BadLine(number, "text is empty" if nick else "the nick is empty")
        elif last > latest:
            yield BadLine(number, "the time lies more than a day in the future")
        else:
            yield Message("irc", chat, ids.of(chat, nick, last, text), nick, text, last, chat, nick, kind)


def _irc_date(path: Path) -> datetime:
    match = _FILE_DATE.search(path.stem)
    try:
        found = datetime(int(match[1]), int(match[2]), int(match[3]), tzinfo=UTC) if match else EARLIEST
    except ValueError:
        return EARLIEST
    return max(found, EARLIEST)


# --- logs of raw WeChat call-backs


def _read_callbacks(lines: Iterator[str], path: Path, latest: datetime) -> Iterator[Item]:
    ids = _Ids()
    for number, value in _callbacks(lines):
        if isinstance(value, BadLine):
            yield value
            continue
        try:
            item = _callback(value, ids, latest)
        except _UnusableError as bad:
            yield BadLine(number, str(bad))
            continue
        if item is not None:
            yield item


def _callback(value: Any, ids: _Ids, latest: datetime) -> Message | Recall | None:
    """None for what was not said in a group: private chats, notices, the bot's own messages."""
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, dict):
        raise _UnusableError("no call-back: it has no object named data")
    if not data.get("newMsgId") and not data.get("msgId"):
        parts = [str(data.get(key)) for key in ("fromGroup", "fromUser", "timestamp", "content")]
        value = {**value, "data": {**data, "newMsgId": ids.of(*parts)}}
    item = parse_callback(value)
    if isinstance(item, Message):
        checked_time(item.sent_at, latest)
        if not item.text.strip():
            raise _UnusableError("content is empty")
    return item


def _callbacks(lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
    """Objects one after another, pretty-printed or one a line, with the number of their first line.

    A broken one costs only itself: the next ``{`` at the start of a line begins anew.
    """
    buffer: list[str] = []
    first = attempts = 0
    for number, line in enumerate(lines, 1):
        if buffer and line.startswith("{"):
            yield first, BadLine(first, "a call-back that is cut off or broken")
            buffer = []
        if not buffer:
            if not line.strip():
                continue
            first, attempts = number, 0
        buffer.append(line)
        if line.startswith(("}", "{")) and line.rstrip() != "{":
            attempts += 1
            values, rest = _decode_all("\n".join(buffer))
            yield from ((first, value) for value in values)
            if values:
                buffer = [rest] if rest else []
                first, attempts = number, 0
        elif not buffer[0].startswith("{") or len(buffer) > _CALLBACK_LINES:
            attempts = _CALLBACK_ATTEMPTS
        if attempts >= _CALLBACK_ATTEMPTS:
            yield first, BadLine(first, "a call-back that is cut off or broken")
            buffer = []
    if buffer:
        yield first, BadLine(first, "a call-back that is cut off or broken")


def _decode_all(text: str) -> tuple[list[Any], str]:
    """The JSON objects at the start of ``text``, and what is left of it."""
    values = []
    text = text.lstrip()
    while text.startswith("{"):
        try:
            value, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            break
        values.append(value)
        text = text[end:].lstrip(" \t\r\n,")
    return values, text
