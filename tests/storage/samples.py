"""Messages and questions for the tests of storage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from core.messages import ContextLine, Message, Question, Resolution, Utterance, Verdict

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


class StillClock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def forward(self, **delta: float) -> None:
        self.time += timedelta(**delta)


def verdict(probability: float, model: str = "tiny") -> Verdict:
    return Verdict(probability, 0.5, model, "v1", "lm", "group-lora", 12.5)


def resolution(candidate: str | None, *, accepted: bool = True) -> Resolution:
    return Resolution(candidate, candidate if accepted else None, 0.9, "tiny", "v1", invented=() if accepted else ("x",))


def message(number: int, text: str = "", *, sender: str = "u1", chat: str = "g1", platform: str = "feishu", reply_to: str | None = None, mentions: tuple[str, ...] = ()) -> Message:
    return Message(
        platform=platform,
        chat_id=chat,
        message_id=f"m{number}",
        sender_id=sender,
        text=text or f"消息 {number}",
        sent_at=START + timedelta(seconds=number),
        chat_name="技术群",
        sender_name=f"名字{sender}",
        mentions=mentions,
        reply_to=reply_to,
    )


def ask(*messages: Message, context: tuple[Message, ...] = ()) -> tuple[Utterance, Question]:
    utterance = Utterance(messages)
    lines = tuple(ContextLine(m.shown_name, m.text, m.message_id, (utterance.started_at - m.sent_at).total_seconds()) for m in context)
    ids = tuple(m.message_id for m in messages)
    return utterance, Question(
        utterance.id, utterance.conversation, utterance.sender_name, utterance.text, utterance.started_at, lines, ids, utterance.sender_id, "技术群", "how", ("TX2",)
    )


def bytes_on_disk(path: Path) -> bytes:
    """All bytes of the database: file, write-ahead log, journal."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()) if file.name.startswith(path.name) and file.is_file())
