"""Merging: successive messages of one sender become one utterance, also when others speak in between.

Everything is decided on event time (the messages' own ``sent_at``), so a live run, which closes by a timer, and a replay, which closes when a later message arrives, give
the same utterances.

The window adapts. Half a sentence waits ``window_seconds``; a text that looks finished waits ``finished_window_seconds``; each other member who speaks in between
shortens it, for people who go on after somebody else spoke mostly answer (on IRC channels with seconds 83% of the pairs with nobody between belong together, 23% with one
message between, 8% with two). A message that addresses somebody else, or quotes another message, starts a new utterance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache

from core.addressing import addressees
from core.antecedents import split_quote
from core.messages import ConversationKey, Message, Utterance

_FINISHED = re.compile(r"[?？!！。.~～吗么呢吧][\"'”’)）\]】]*\s*$")
_HALF = re.compile(r"(\.\.\.|…|[,，、:：(（\-—]|\b(?:and|or|but|so|because|the|a|an|to|of|with|for|is|if|that)|(?:的|和|跟|但是|然后|因为|所以|就是|比如|如果))\s*$", re.IGNORECASE)

#: Share of the window that is left after 0, 1, 2 and more messages of others.
INTERRUPTED = (1.0, 1 / 3, 1 / 6)


@lru_cache(maxsize=4096)
def _ending(text: str) -> tuple[bool, bool]:
    """Whether ``text`` looks like half a sentence, and whether it looks finished. Deadlines ask this of an open text at each message of its group."""
    return bool(_HALF.search(text)), bool(_FINISHED.search(text))


@dataclass(frozen=True, slots=True)
class MergeRules:
    """When two messages of one sender belong together. Times in seconds."""

    window: float = 75.0
    finished_window: float = 40.0
    max_wait: float = 240.0
    max_messages: int = 12
    max_chars: int = 2000

    def wait_after(self, text: str, others_between: int) -> float:
        """Seconds that an utterance ending in ``text`` stays open when ``others_between`` messages of others came since."""
        half, finished = _ending(text)
        if half and others_between <= len(INTERRUPTED) - 1:
            return self.window
        if others_between:
            return self.window * INTERRUPTED[min(others_between, len(INTERRUPTED) - 1)]
        return self.finished_window if finished else self.window

    def same_utterance(self, previous: str, current: str, gap: float, others_between: int) -> bool:
        """Do two successive texts of one sender, ``gap`` seconds apart, belong together?"""
        return gap <= self.wait_after(previous, others_between) and not _addresses_another(previous, current)


def _addresses_another(previous: str, current: str) -> bool:
    new = addressees(current)
    return bool(new) and not set(new) & set(addressees(previous))


@dataclass(slots=True)
class _Open:
    messages: list[Message]
    last_at: datetime
    chars: int
    others: int = 0
    deadline: datetime | None = None  # as long as neither the messages nor the number of others changed it

    @property
    def first_at(self) -> datetime:
        return self.messages[0].sent_at


@dataclass(slots=True)
class _Conversation:
    open: dict[str, _Open] = field(default_factory=dict)
    seen_until: datetime | None = None


class Merger:
    """Feed messages in order of arrival to :meth:`add`; each message comes back in exactly one utterance, from :meth:`add`, :meth:`close_due` or :meth:`flush`."""

    def __init__(self, rules: MergeRules | None = None) -> None:
        self.rules = rules or MergeRules()
        self._conversations: dict[ConversationKey, _Conversation] = {}

    def add(self, message: Message) -> list[Utterance]:
        """Take one message; return the utterances that its event time closes, oldest first."""
        conversation = self._conversations.setdefault(message.conversation, _Conversation())
        late = conversation.seen_until is not None and message.sent_at < conversation.seen_until - timedelta(seconds=self.rules.max_wait)
        if late:  # a re-push hours later: complete in itself, and no clock for the others
            return [Utterance((message,))]
        mine = conversation.open.pop(message.sender_id, None)
        closed: list[Utterance] = []
        if mine is not None and not self._joins(mine, message):
            closed.append(Utterance(tuple(mine.messages)))
            mine = None
        if mine is None:
            conversation.open[message.sender_id] = _Open([message], message.sent_at, len(message.text))
        else:
            mine.messages.append(message)
            mine.last_at, mine.chars, mine.others, mine.deadline = max(mine.last_at, message.sent_at), mine.chars + len(message.text), 0, None
            conversation.open[message.sender_id] = mine
        for sender, other in conversation.open.items():
            if sender != message.sender_id:
                other.others += 1
                if other.others < len(INTERRUPTED) + 1:  # more of them shorten the window no further
                    other.deadline = None
        conversation.seen_until = max(conversation.seen_until or message.sent_at, message.sent_at)
        closed += self._close(conversation, conversation.seen_until)
        return closed if len(closed) < 2 else sorted(closed, key=lambda u: (u.started_at, u.id))

    def _joins(self, mine: _Open, message: Message) -> bool:
        rules, last = self.rules, mine.messages[-1]
        gap = max(0.0, (message.sent_at - mine.last_at).total_seconds())
        if len(mine.messages) >= rules.max_messages or mine.chars + len(message.text) > rules.max_chars:
            return False
        if (max(message.sent_at, mine.last_at) - mine.first_at).total_seconds() > rules.max_wait:
            return False
        if message.reply_to and message.reply_to not in (last.reply_to, *(m.message_id for m in mine.messages)):
            return False
        if split_quote(message.text)[1]:  # a quotation that came as text is read only where the utterance begins with it
            return False
        return rules.same_utterance(last.text, message.text, gap, mine.others)

    def _deadline(self, item: _Open) -> datetime:
        if item.deadline is None:
            wait = self.rules.wait_after(item.messages[-1].text, item.others)
            item.deadline = min(item.last_at + timedelta(seconds=wait), item.first_at + timedelta(seconds=self.rules.max_wait))
        return item.deadline

    def _close(self, conversation: _Conversation, now: datetime) -> list[Utterance]:
        due = [sender for sender, item in conversation.open.items() if (item.deadline or self._deadline(item)) < now]
        return sorted((Utterance(tuple(conversation.open.pop(sender).messages)) for sender in due), key=lambda u: (u.started_at, u.id))

    def close_due(self, now: datetime) -> list[Utterance]:
        """Utterances whose window passed by ``now`` (a live run's timer), oldest first."""
        closed = [utterance for conversation in self._conversations.values() for utterance in self._close(conversation, now)]
        return sorted(closed, key=lambda u: (u.started_at, u.id))

    def next_deadline(self) -> datetime | None:
        """When :meth:`close_due` will next have something; None when nothing is open."""
        return min((self._deadline(item) for c in self._conversations.values() for item in c.open.values()), default=None)

    def remove(self, conversation: ConversationKey, message_id: str) -> None:
        """Forget a recalled message that is still in an open utterance."""
        open_ = self._conversations.get(conversation, _Conversation()).open
        for sender, item in list(open_.items()):
            item.messages, item.deadline = [message for message in item.messages if message.message_id != message_id], None
            if not item.messages:
                del open_[sender]

    def flush(self) -> list[Utterance]:
        """Close everything, oldest first."""
        rest = [Utterance(tuple(item.messages)) for c in self._conversations.values() for item in c.open.values()]
        self._conversations.clear()
        return sorted(rest, key=lambda u: (u.started_at, u.id))
