"""What a Feishu message says, as plain text: rich text is flattened, mentions get their names, everything else a place-holder.

The ``content`` of a message is a JSON string whose form depends on ``message_type``. Nothing in here raises on an unknown or broken form: a message that cannot be read is still
a message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.messages import MessageKind

EVERYBODY = "all"
"""Sender id that stands for everybody in ``Message.mentions``."""

_EVERYBODY_KEY = "@_all"
_EVERYBODY_NAME = "所有人"

_PLACEHOLDERS: Mapping[str, tuple[MessageKind, str, str]] = {
    # message_type: kind, place-holder, key of the content that may follow it
    "image": (MessageKind.IMAGE, "[图片]", ""),
    "file": (MessageKind.FILE, "[文件]", "file_name"),
    "folder": (MessageKind.FILE, "[文件夹]", "file_name"),
    "audio": (MessageKind.AUDIO, "[语音]", ""),
    "media": (MessageKind.VIDEO, "[视频]", ""),
    "video": (MessageKind.VIDEO, "[视频]", ""),
    "sticker": (MessageKind.STICKER, "[表情]", ""),
    "share_chat": (MessageKind.OTHER, "[群名片]", ""),
    "share_user": (MessageKind.OTHER, "[个人名片]", ""),
    "location": (MessageKind.OTHER, "[位置]", "name"),
    "merge_forward": (MessageKind.OTHER, "[聊天记录]", ""),
    "share_calendar_event": (MessageKind.OTHER, "[日程]", "summary"),
    "calendar": (MessageKind.OTHER, "[日程]", "summary"),
    "general_calendar": (MessageKind.OTHER, "[日程]", "summary"),
    "vote": (MessageKind.OTHER, "[投票]", "topic"),
    "todo": (MessageKind.OTHER, "[任务]", ""),
    "hongbao": (MessageKind.OTHER, "[红包]", ""),
    "video_chat": (MessageKind.OTHER, "[视频会议]", "topic"),
    "system": (MessageKind.SYSTEM, "[系统消息]", ""),
}


def flatten(message_type: str, content: str, mentions: Sequence[Mapping[str, Any]], bot_id: str) -> tuple[MessageKind, str]:
    """Kind and text of a message.

    :param mentions: the event's list of ``{"key": "@_user_1", "id": {"open_id": ...}, "name": ...}``.
    :param bot_id: open_id of the bot, whose own mention is left out of the text ("" when not known).
    """
    fields = _parse(content)
    if message_type == "text":
        text = fields.get("text")
        if not isinstance(text, str):
            return MessageKind.OTHER, "[其他消息]"
        return MessageKind.TEXT, storable(_name_mentions(text, mentions, bot_id))
    if message_type == "post":
        return MessageKind.TEXT, storable(_name_mentions(_post(fields), mentions, bot_id))
    kind, placeholder, key = _PLACEHOLDERS.get(message_type, (MessageKind.OTHER, "[其他消息]", ""))
    detail = fields.get(key) if key else None
    return kind, storable(f"{placeholder} {detail.strip()}") if isinstance(detail, str) and detail.strip() else placeholder


def storable(text: str) -> str:
    """JSON may carry half of a surrogate pair or a NUL; no database takes them, and a message that cannot be stored would be pushed again for hours."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")


def mentioned_ids(content: str, mentions: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """open_ids of the mentioned members in order of the event, :data:`EVERYBODY` for all."""
    ids = [open_id(mention.get("id")) for mention in mentions if mention.get("key") != _EVERYBODY_KEY]
    if _EVERYBODY_KEY in content or any(mention.get("key") == _EVERYBODY_KEY for mention in mentions):
        ids.append(EVERYBODY)
    return tuple(dict.fromkeys(found for found in ids if found))


def open_id(identifier: object) -> str:
    """The open_id of ``{"open_id": ...}``, or of the bare string that some event versions use; "" when there is none."""
    if isinstance(identifier, Mapping):
        identifier = identifier.get("open_id")
    return identifier if isinstance(identifier, str) else ""


def _parse(content: str) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, TypeError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _name_mentions(text: str, mentions: Sequence[Mapping[str, Any]], bot_id: str) -> str:
    """One pass over the text, longest key first (``@_user_1`` begins ``@_user_10``), so that a name that looks like a key is not replaced again."""
    names = {_EVERYBODY_KEY: f"@{_EVERYBODY_NAME}"}
    for mention in mentions:
        key, name = mention.get("key"), mention.get("name")
        if isinstance(key, str) and key and key != _EVERYBODY_KEY:
            is_bot = bool(bot_id) and open_id(mention.get("id")) == bot_id
            names[key] = "" if is_bot else f"@{name or '成员'}"
    keys = "|".join(re.escape(key) for key in sorted(names, key=len, reverse=True))
    named = re.sub(f"({keys})( ?)", lambda match: names[match[1]] + match[2] if names[match[1]] else "", text)
    return named.strip()


def _post(fields: Mapping[str, Any]) -> str:
    """Title and paragraphs, one a line. Received posts are bare; posts that an app sent may be wrapped in a locale."""
    if "content" not in fields:
        fields = next((value for value in fields.values() if isinstance(value, dict) and "content" in value), fields)
    lines = [str(fields.get("title") or "")]
    content = fields.get("content")
    for paragraph in content if isinstance(content, list) else []:
        elements = paragraph if isinstance(paragraph, list) else [paragraph]
        lines.append("".join(_element(element) for element in elements if isinstance(element, dict)))
    return "\n".join(line.strip() for line in lines if line.strip())


def _text(element: Mapping[str, Any]) -> str:
    return str(element.get("text") or "")


def _link(element: Mapping[str, Any]) -> str:
    text, address = _text(element), str(element.get("href") or "")
    return f"{text} {address} " if text and address and text != address else text or address


def _at(element: Mapping[str, Any]) -> str:
    user = str(element.get("user_id") or "")
    if user in ("all", _EVERYBODY_KEY):
        return f"{_EVERYBODY_KEY} "
    return f"{user} " if user.startswith("@_user_") else f"@{element.get('user_name') or '成员'} "


_ELEMENTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "text": _text,
    "md": _text,
    "a": _link,
    "at": _at,
    "img": lambda _: "[图片]",
    "media": lambda _: "[视频]",
    "emotion": lambda _: "[表情]",
    "code_block": lambda element: f"\n{_text(element).rstrip()}\n",
    "hr": lambda _: "",
}


def _element(element: Mapping[str, Any]) -> str:
    return _ELEMENTS.get(str(element.get("tag")), _text)(element)
