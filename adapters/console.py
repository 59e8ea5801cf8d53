"""The console as a platform: lines ``alice> text`` are messages of one group."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from datetime import datetime

from core.messages import Message

_LINE = re.compile(r"^\s*([^<>\s][^<>]{0,39}?)\s*[>＞]\s?(.*)$")


class ConsoleReader:
    """Turns typed lines into messages. A line without a name belongs to whoever spoke last."""

    def __init__(self, chat_id: str = "console", chat_name: str = "console", first_speaker: str = "me") -> None:
        self._chat_id, self._chat_name, self._speaker = chat_id, chat_name, first_speaker
        self._numbers: Iterator[int] = itertools.count(1)

    def message(self, line: str, now: datetime) -> Message | None:
        """The message that ``line`` says at ``now``, or None for an empty one."""
        match = _LINE.match(line)
        if match:
            self._speaker, text = match.group(1), match.group(2).strip()
        else:
            text = line.strip()
        if not text:
            return None
        number = f"{now.timestamp():.3f}-{next(self._numbers)}"
        return Message("console", self._chat_id, number, self._speaker, text, now, chat_name=self._chat_name, sender_name=self._speaker)
