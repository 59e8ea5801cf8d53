"""Value types that travel through the pipeline. All are frozen; times are aware datetimes in UTC.

A :class:`Message` is what a member sent. Successive messages of one member that belong together form an :class:`Utterance`. An utterance that asks something is a
:class:`Question`, seen with its :class:`ContextLine` list. A gate gives it a :class:`Verdict`; a resolver a :class:`Resolution`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

COPY_WINDOW = timedelta(seconds=10)
"""The same words of one member within this time under two ids are one message, told twice."""


class MessageKind(StrEnum):
    """What a message carries. Everything but ``TEXT`` has a place-holder such as ``[图片]`` as its text."""

    TEXT = "text"
    IMAGE = "image"
    FILE = "file"
    AUDIO = "audio"
    VIDEO = "video"
    STICKER = "sticker"
    LINK = "link"
    CARD = "card"
    SYSTEM = "system"
    OTHER = "other"


class ConversationKey(NamedTuple):
    """One group chat: two platforms may use the same ``chat_id`` for different groups. A tuple, for it is made and looked up several times a message."""

    platform: str
    chat_id: str

    def __str__(self) -> str:
        return f"{self.platform}:{self.chat_id}"


@dataclass(frozen=True, slots=True)
class Message:
    """One message as a platform delivered it.

    ``mentions`` are sender ids; ``reply_to`` is the ``message_id`` of the quoted message; ``sent_at`` is the platform's time, not ours.
    """

    platform: str
    chat_id: str
    message_id: str
    sender_id: str
    text: str
    sent_at: datetime
    chat_name: str = ""
    sender_name: str = ""
    kind: MessageKind = MessageKind.TEXT
    mentions: tuple[str, ...] = ()
    reply_to: str | None = None
    thread_id: str | None = None

    @property
    def conversation(self) -> ConversationKey:
        return ConversationKey(self.platform, self.chat_id)

    @property
    def key(self) -> str:
        """Unique over all platforms and chats."""
        return f"{self.platform}:{self.chat_id}:{self.message_id}"

    @property
    def shown_name(self) -> str:
        return self.sender_name or self.sender_id

    def repeats(self, other: Message) -> bool:
        """Whether both are the same words of the same member at nearly the same moment: platforms were seen to deliver one message under two ids."""
        return (
            self.text == other.text
            and self.sender_id == other.sender_id
            and self.message_id != other.message_id
            and abs(self.sent_at - other.sent_at) <= COPY_WINDOW
            and self.reply_to == other.reply_to
            and self.kind is other.kind is MessageKind.TEXT
            and self.conversation == other.conversation
        )


@dataclass(frozen=True, slots=True)
class Recall:
    """A member took a message back: it must vanish everywhere."""

    platform: str
    chat_id: str
    message_id: str
    at: datetime

    @property
    def conversation(self) -> ConversationKey:
        return ConversationKey(self.platform, self.chat_id)


@dataclass(frozen=True, slots=True)
class Utterance:
    """Successive messages of one sender that belong together, in order of arrival. Never empty."""

    messages: tuple[Message, ...]

    @property
    def id(self) -> str:
        """The key of the first message: stable over restarts."""
        return self.messages[0].key

    @property
    def conversation(self) -> ConversationKey:
        return self.messages[0].conversation

    @property
    def sender_id(self) -> str:
        return self.messages[0].sender_id

    @property
    def sender_name(self) -> str:
        return self.messages[-1].sender_name

    @property
    def text(self) -> str:
        """What was said, once where a message repeats another."""
        return join_texts([message.text for index, message in enumerate(self.messages) if not any(map(message.repeats, self.messages[:index]))])

    @property
    def started_at(self) -> datetime:
        return self.messages[0].sent_at

    @property
    def ended_at(self) -> datetime:
        return max(message.sent_at for message in self.messages)

    @property
    def reply_to(self) -> str | None:
        return next((m.reply_to for m in self.messages if m.reply_to), None)

    @property
    def mentions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(mention for m in self.messages for mention in m.mentions))


def join_texts(texts: list[str]) -> str:
    """Texts of one utterance as one line of text: half sentences are joined by a space."""
    return " ".join(text.strip() for text in texts if text.strip())


@dataclass(frozen=True, slots=True)
class ContextLine:
    """One earlier message as a gate or resolver sees it. Senders are names, never ids of the platform.

    ``seconds_before`` is the time from this line to the question. ``is_reply_target``: the question quotes this very message.
    """

    sender: str
    text: str
    message_id: str = ""
    seconds_before: float = 0.0
    is_reply_target: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """An utterance that asks something, with the conversation before it (oldest line first).

    ``context`` holds every line that later stages may use (at most ``[gate] context_lines``); ``rule`` names the filter rule that kept it. ``quotes_unseen``: it quotes a message
    that is not known (a recalled one, one of a member who opted out, the bot's own), so that what it means is said where nobody can look.
    """

    id: str
    conversation: ConversationKey
    sender: str
    text: str
    asked_at: datetime
    context: tuple[ContextLine, ...] = ()
    message_ids: tuple[str, ...] = ()
    sender_id: str = ""
    chat_name: str = ""
    rule: str = ""
    glossary: tuple[str, ...] = ()
    quotes_unseen: bool = False

    @property
    def has_antecedents(self) -> bool:
        """Whether what the question refers to can stand in its context."""
        return bool(self.context) and not self.quotes_unseen


@dataclass(frozen=True, slots=True, order=True)
class GateVersion:
    """What judged: two verdicts of one version on one question differ by nothing but rounding. ``adapter`` and ``prompt_version`` are "" where the head alone judged."""

    model: str
    adapter: str = ""
    prompt_version: str = ""

    def __str__(self) -> str:
        return "+".join(part for part in (self.model, self.adapter, self.prompt_version) if part)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gate's judgement. ``probability`` is P(needs resolution) in 0..1, calibrated where a calibration is shipped.

    ``stage`` tells what settled it: ``encoder`` (head alone), ``lm`` (language model, combined with the head where there is one).
    """

    probability: float
    threshold: float
    model: str
    prompt_version: str
    stage: str = "lm"
    adapter: str = ""
    latency_ms: float = 0.0

    @property
    def needs_resolution(self) -> bool:
        return self.probability >= self.threshold

    @property
    def version(self) -> GateVersion:
        return GateVersion(self.model, self.adapter, self.prompt_version)


class RefusalReason(StrEnum):
    """Why a question that needs resolution goes on unresolved."""

    NO_CONTEXT = "no_context"
    NO_CANDIDATE = "no_candidate"
    UNCHANGED = "unchanged"
    INVENTED = "invented"
    LOST_WORDS = "lost_words"
    UNSURE = "unsure"
    BACKEND_FAILED = "backend_failed"
    SWITCHED_OFF = "switched_off"


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the resolver made of a question. ``rewrite`` is the accepted text or None; ``candidate`` the best one before acceptance.

    ``confidence`` is the calibrated probability in 0..1 that ``candidate`` names the right antecedent.
    """

    candidate: str | None
    rewrite: str | None
    confidence: float
    model: str
    prompt_version: str
    reason: RefusalReason | None = None
    adapter: str = ""
    latency_ms: float = 0.0
    invented: tuple[str, ...] = field(default=())
