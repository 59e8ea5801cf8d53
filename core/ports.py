"""The ports of the domain: what ``core`` needs of the outside and of its model back ends.

Storage implements :class:`Inbox` and :class:`QuestionLog`; platforms implement :class:`Adapter`; model back ends implement :class:`LanguageModel`. :class:`Gate` and
:class:`Resolver` are built on
language models inside ``core`` and are ports only so that a pipeline can be wired without one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

from core.messages import ContextLine, ConversationKey, GateVersion, Message, Question, Recall, Resolution, Utterance, Verdict


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in the order of its stability, so that a back end can keep what does not change.

    ``fixed`` is the same for all questions of a run (instruction, glossary), ``context`` for several questions of one conversation, ``tail`` is new each time. The text a
    model reads is their
    concatenation.
    """

    fixed: str
    context: str
    tail: str

    @property
    def text(self) -> str:
        return self.fixed + self.context + self.tail


@dataclass(frozen=True, slots=True)
class Generation:
    """Greedy text and the natural-log probability of each generated token."""

    text: str
    logprobs: tuple[float, ...]


@runtime_checkable
class LanguageModel(Protocol):
    """A causal language model. All methods raise :class:`core.errors.BackendError` when the back end fails."""

    name: str
    adapter: str

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        """For each prompt the natural-log probability of the first token of each answer as the next token: one forward pass a prompt. Shape (prompts, answers)."""

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        """For each continuation the natural-log probability of each of its tokens after ``prompt``."""

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        """Greedy decoding until ``stop`` or ``max_tokens``; ``stop`` is not part of the text."""

    async def count_tokens(self, text: str) -> int:
        """Number of tokens of ``text`` without special tokens."""

    async def close(self) -> None:
        """Free the model. Idempotent."""


@runtime_checkable
class Gate(Protocol):
    """Decides which questions need resolution."""

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        """One verdict for each question, in order. Raises :class:`core.errors.BackendError`."""

    async def close(self) -> None:
        """Free the models. Idempotent."""


@runtime_checkable
class VersionedGate(Gate, Protocol):
    """A gate that can tell beforehand which versions its verdicts will bear, so that nothing is judged by the same version twice."""

    @property
    def versions(self) -> frozenset[GateVersion]: ...


def versions_of(gate: Gate) -> frozenset[GateVersion]:
    """The versions of a gate, none where it does not tell them."""
    return gate.versions if isinstance(gate, VersionedGate) else frozenset()


@runtime_checkable
class Resolver(Protocol):
    """Rewrites a question so that it stands alone, or says why not."""

    async def resolve(self, question: Question) -> Resolution:
        """Never raises for a poor candidate: the reason is in the result. Raises :class:`core.errors.BackendError` when the back end fails."""

    async def close(self) -> None:
        """Free the models. Idempotent."""


@dataclass(frozen=True, slots=True)
class Unmerged:
    """Messages that a merger has to see again to come to the same utterances as before a crash.

    ``messages``: per conversation, in order of arrival, from the oldest message that is in no recorded utterance on, and from the first message of each recorded
    utterance that reaches beyond it.
    ``merged``: the keys of those among them that are in a recorded utterance already.
    """

    messages: tuple[Message, ...]
    merged: frozenset[str]


class Inbox(Protocol):
    """Durable store of messages, unique on (platform, chat_id, message_id)."""

    async def add(self, messages: Sequence[Message]) -> list[Message]:
        """Store messages durably and return those that were new, in order. When this returns, they survive ``kill -9``."""

    async def unmerged(self) -> Unmerged:
        """What a restart has to merge again."""

    async def history(self, message: Message, limit: int) -> list[Message]:
        """The ``limit`` messages of its conversation that arrived before ``message``, oldest first; recalled ones are absent."""

    async def recent(self, conversation: ConversationKey, limit: int) -> list[Message]:
        """The last ``limit`` messages of a conversation, oldest first."""

    async def find(self, conversation: ConversationKey, message_id: str) -> Message | None:
        """One message, however old; None when it is not stored or was recalled."""

    async def copies(self, message: Message) -> list[Message]:
        """The other messages that :meth:`core.messages.Message.repeats` tells to be the same as ``message``, without recalled ones."""

    async def recall(self, recall: Recall) -> bool:
        """Erase a message and what was derived from it. False when it was not stored."""


class UnfinishedQuestion(Protocol):
    """A question with its current verdict, if it has one."""

    @property
    def question(self) -> Question: ...

    @property
    def verdict(self) -> Verdict | None: ...


class ResolvedQuestion(UnfinishedQuestion, Protocol):
    """A question that is through all its steps, with its rewrite where it needed one."""

    @property
    def resolution(self) -> Resolution | None: ...


class QuestionLog(Protocol):
    """Durable log of utterances, questions, verdicts and rewrites."""

    async def record_many(self, entries: Sequence[tuple[Utterance, Question | None]]) -> Sequence[Question]:
        """Mark the messages of each utterance as merged and store its question, if any, all in one transaction. Idempotent on ``utterance.id``.

        Returns the questions as they stand in the log: without those, and without those context lines, that were erased on their way here.
        """

    async def unfinished(self, among: Collection[str] | None = None) -> Sequence[UnfinishedQuestion]:
        """Questions whose last step is not recorded, oldest first: without a verdict (None), or with one that needs a resolution and no recorded rewrite.

        ``among``: only those of these ids.
        """

    async def judged(self, question_id: str, verdict: Verdict) -> None:
        """Append a verdict and make it the current one."""

    async def resolved(self, question_id: str, resolution: Resolution, seen: Sequence[ContextLine] = ()) -> Resolution:
        """Append a rewrite (accepted or refused). Returns it as it is stored: without words of those lines among ``seen``, which it was made of, that were erased meanwhile."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a platform can do.

    ``idempotent_send``: a repeated send with the same key reaches the group once. ``fetches``: the platform asks for what waits (:meth:`MessageSink.fetch`), nothing can be sent
    to it.
    """

    reply_quotes: bool = False
    recalls: bool = False
    idempotent_send: bool = False
    mentions: bool = False
    fetches: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """State of an adapter. ``last_event_age`` in seconds, None before the first event.

    ``waiting``: messages that arrived and are not handed to the sink yet; ``dropped``: those that were given up before, by reason.
    """

    connected: bool
    detail: str = ""
    last_event_age: float | None = None
    waiting: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutgoingReply:
    """A reply on its way to a group. ``idempotency_key`` is the same for each attempt; ``reply_to`` quotes a message of the group. Its
    age counts from ``asked_at``, the time of the question; None: from when it is queued. ``made_of``: ids of the messages whose words it may show."""

    conversation: ConversationKey
    text: str
    idempotency_key: str
    reply_to: str | None = None
    mention: str | None = None
    asked_at: datetime | None = None
    made_of: tuple[str, ...] = ()


class Announcements(Protocol):
    """Ids of messages that a platform has named, until their adapter has fetched and delivered them: over a crash and a restart. All methods raise StorageError."""

    async def add(self, platform: str, message_id: str) -> None:
        """Durable when it returns. A repeated name changes nothing."""

    async def settle(self, platform: str, message_id: str) -> None:
        """The message was delivered, or there is nothing to deliver."""

    async def unsettled(self, platform: str) -> Sequence[str]:
        """What is still to be fetched, oldest first; what no platform can still have is left out and forgotten."""


class MessageSink(Protocol):
    """What an adapter hands its events to. ``message`` returns only when the message is stored: acknowledge the platform after it."""

    def collects(self, conversation: ConversationKey) -> bool:
        """Whether messages of the group are stored: of other groups' members nothing need be looked up."""

    @property
    def announcements(self) -> Announcements:
        """For platforms that tell only the id of a message, and only once."""

    async def message(self, message: Message) -> None: ...

    async def recall(self, recall: Recall) -> None: ...

    async def joined(self, conversation: ConversationKey, chat_name: str) -> None:
        """The bot was added to a group."""

    async def left(self, conversation: ConversationKey) -> None:
        """The bot was removed from a group."""

    def fetch(self, platform: str, chat_id: str | None) -> AbstractAsyncContextManager[Sequence[OutgoingReply]]:
        """The replies that wait for a group (None: for all groups) of a platform that fetches them, oldest first, for nobody else while the block lasts.

        When it ends without an error the platform has them; otherwise they wait on. Raises StorageError.
        """


class Adapter(Protocol):
    """One platform. Order per conversation is kept; own messages are not delivered; every message reaches the sink at least once."""

    platform: str
    capabilities: Capabilities

    @property
    def bot_id(self) -> str:
        """The bot's own sender id, "" while it is not known: what a mention of the bot looks like in ``Message.mentions``."""

    async def start(self, sink: MessageSink) -> None:
        """Connect and deliver events to ``sink`` until :meth:`stop`. Returns when the first connection attempt was made; reconnects by itself. Raises ConfigError for bad
        credentials.
        """

    async def stop(self) -> None:
        """Stop intake and close; leaves no task or thread behind. Idempotent."""

    async def send(self, reply: OutgoingReply) -> str:
        """Send and return the platform's message id ("" where it gives none). Raises :class:`core.errors.SendError` (``retry_after`` seconds, or permanent)."""

    async def recall(self, conversation: ConversationKey, message_id: str) -> None:
        """Take back one of the bot's own messages. Raises SendError."""

    def health(self) -> Health: ...


@runtime_checkable
class ChatAdmins(Protocol):
    """An adapter whose platform tells who leads a group."""

    async def chat_admins(self, conversation: ConversationKey) -> frozenset[str]:
        """Sender ids of the owner and the managers of a group; empty where the platform does not tell them now. Never raises."""
