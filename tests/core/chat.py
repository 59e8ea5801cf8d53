"""Messages for the tests of the domain: times are seconds after :data:`START`."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from core.messages import Message

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
_ids = itertools.count(1)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def said(sender: str, text: str, seconds: float = 0, *, id: str = "", reply_to: str | None = None, chat: str = "g1") -> Message:  # noqa: A002
    return Message("console", chat, id or f"m{next(_ids)}", sender, text, at(seconds), sender_name=sender, reply_to=reply_to)
