"""Events of the bus. Each belongs to one conversation, whose order is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from core.messages import ConversationKey, Message, Question, Recall, Resolution, Utterance, Verdict


class Event(Protocol):
    @property
    def conversation(self) -> ConversationKey: ...


@dataclass(frozen=True, slots=True)
class MessageStored:
    """A new message is durable in the inbox. ``live``: it was just said, not recovered after a restart or imported."""

    message: Message
    live: bool = True

    @property
    def conversation(self) -> ConversationKey:
        return self.message.conversation


@dataclass(frozen=True, slots=True)
class MessageRecalled:
    recall: Recall

    @property
    def conversation(self) -> ConversationKey:
        return self.recall.conversation


@dataclass(frozen=True, slots=True)
class UtteranceClosed:
    utterance: Utterance

    @property
    def conversation(self) -> ConversationKey:
        return self.utterance.conversation


@dataclass(frozen=True, slots=True)
class QuestionAsked:
    question: Question

    @property
    def conversation(self) -> ConversationKey:
        return self.question.conversation


@dataclass(frozen=True, slots=True)
class QuestionJudged:
    question: Question
    verdict: Verdict

    @property
    def conversation(self) -> ConversationKey:
        return self.question.conversation


@dataclass(frozen=True, slots=True)
class QuestionResolved:
    """The end of a question's way: judged, and resolved where that was needed and possible."""

    question: Question
    verdict: Verdict
    resolution: Resolution | None

    @property
    def conversation(self) -> ConversationKey:
        return self.question.conversation


@dataclass(frozen=True, slots=True)
class HandlerFailed:
    """A handler raised. The event went on to the other handlers."""

    event: Event
    handler: str
    error: BaseException

    @property
    def conversation(self) -> ConversationKey:
        return self.event.conversation
