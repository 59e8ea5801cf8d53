"""Context selection alone: does the message that a human says was answered stand among those ranked first?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from core.context import HORIZON, rank
from core.messages import Message, MessageKind, Utterance
from scripts.evaluation.forms import Channel
from scripts.evaluation.results import Advance, Result

DEPTHS = (1, 5, 11)
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_START = datetime(2004, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ReplyItem:
    """A message, what was said before it (oldest first), and which of that it replies to. ``is_antecedent`` has the length of ``earlier``."""

    utterance: Utterance
    earlier: list[Message]
    is_antecedent: list[bool]


def evaluate_context(channels: Sequence[Channel], advance: Advance) -> Result:
    """Share of linked messages for which an antecedent is among the first k ranked, beside the last k messages."""
    ranked, latest, n = dict.fromkeys(DEPTHS, 0), dict.fromkeys(DEPTHS, 0), 0
    for channel in channels:
        for item in reply_items(channel):
            n += 1
            order = rank(item.utterance, item.earlier)
            for depth in DEPTHS:
                ranked[depth] += any(item.is_antecedent[index] for index in order[:depth])
                latest[depth] += any(item.is_antecedent[-depth:])
        advance(1)
    total = max(n, 1)
    metrics: dict[str, float | int | None] = {f"recall_at_{depth}": ranked[depth] / total for depth in DEPTHS}
    return Result("context", n, metrics, {"last k messages": {f"recall_at_{depth}": latest[depth] / total for depth in DEPTHS}})


def reply_items(channel: Channel) -> Iterator[ReplyItem]:
    """The annotated messages of a channel that reply to an earlier one. Candidates are the last HORIZON messages that a member sent."""
    messages = channel_messages(channel)
    antecedents: dict[int, set[int]] = {}
    for earlier, later in channel.links:
        if earlier < later < len(messages) and later >= channel.first_annotated:
            antecedents.setdefault(later, set()).add(earlier)
    said = [index for index, message in enumerate(messages) if message.kind is not MessageKind.SYSTEM]
    for later, linked in antecedents.items():
        candidates = [index for index in said if index < later][-HORIZON:]
        if candidates:
            yield ReplyItem(Utterance((messages[later],)), [messages[index] for index in candidates], [index in linked for index in candidates])


def channel_messages(channel: Channel) -> list[Message]:
    """The lines of a channel as messages. Times without a date roll over at midnight; a system line has the time of the line before it."""
    messages = []
    last, day = _START, 0
    for number, (clock, sender, text) in enumerate(channel.messages):
        match = _TIME.match(clock or "")
        if match:
            at = _START + timedelta(days=day, hours=int(match[1]), minutes=int(match[2]), seconds=int(match[3] or 0))
            if at < last - timedelta(hours=12):
                day += 1
                at += timedelta(days=1)
            last = max(last, at)
        kind = MessageKind.TEXT if sender is not None else MessageKind.SYSTEM
        messages.append(Message("irc", channel.file or channel.channel, str(number), sender or "*", text, last, channel.channel, sender or "*", kind))
    return messages
