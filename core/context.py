"""Context selection: which earlier messages a gate or resolver may see.

Of the last :data:`HORIZON` messages before a question the likeliest antecedents are kept, in order of time. Likelihood is a logistic model over nine surface
features (reply link, addressed member, same sender, shared terms, recency ...). Its weights were fitted by ``python -m scripts.context_weights`` on human reply
links of IRC channels; docs/experiments.md has the figures.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from operator import attrgetter

from core.addressing import addressees
from core.antecedents import split_quote
from core.messages import ContextLine, ConversationKey, Message, Question, Utterance
from core.ports import Inbox
from core.prompts import shorten

#: Earlier messages that are considered at all.
HORIZON = 60
#: Messages of a conversation that are kept in memory: room for those that arrived before a late question and were sent after it.
REMEMBERED = 4 * HORIZON
#: Characters of a message that a question's context shows, its head and its tail: the models take time by the square of what is pasted.
LINE_CHARS = 600

FEATURES = ("reply_target", "log_distance", "log_minutes", "same_sender", "addressed", "addresses_asker", "shared_terms", "addressed_before", "asks")
#: Fitted weights, one for each of :data:`FEATURES`. A quoted message always comes first.
WEIGHTS = (100.0, -1.61, -0.91, 2.31, 3.66, 1.47, 0.87, 1.89, 0.31)

_LOG_DISTANCES = [math.log1p(distance) for distance in range(HORIZON, 0, -1)]
_TERM = re.compile(r"[a-z0-9][a-z0-9_.+\-]{2,}|[\u4e00-\u9fff]{2,}")
_ASKS = re.compile(r"[?？]|[吗么呢]\s*$|怎么|什么|为啥|为什么|如何")
_COMMON = frozenset(
    {
        "the",
        "and",
        "for",
        "you",
        "that",
        "this",
        "with",
        "have",
        "are",
        "was",
        "not",
        "but",
        "can",
        "what",
        "how",
        "just",
        "like",
        "get",
        "any",
        "all",
        "one",
        "from",
        "out",
        "has",
        "don't",
        "i'm",
        "it's",
        "yes",
        "will",
    }
)


@lru_cache(maxsize=8192)
def terms(text: str) -> frozenset[str]:
    """Latin words of three letters and more, and Chinese bigrams, case-folded."""
    found: set[str] = set()
    for match in _TERM.finditer(text.casefold()):
        word = match.group()
        if word[0] < "\u4e00":
            if word not in _COMMON:
                found.add(word)
        else:
            found.update(word[i : i + 2] for i in range(len(word) - 1))
    return frozenset(found)


@lru_cache(maxsize=8192)
def _facts(text: str) -> tuple[frozenset[str], bool, frozenset[str]]:
    """What the features need of one text: whom it addresses, whether it asks, its terms. A line is looked at for many questions."""
    return frozenset(addressees(text)), bool(_ASKS.search(text)), terms(text)


@lru_cache(maxsize=8192)
def _names(sender_name: str, sender_id: str) -> frozenset[str]:
    return frozenset(name.casefold() for name in (sender_name, sender_id) if name)


def features(utterance: Utterance, earlier: Sequence[Message]) -> list[tuple[float, ...]]:
    """Features of each earlier message (oldest first) as antecedent of ``utterance``. Shape (len(earlier), len(FEATURES)). This runs for every question."""
    count = len(earlier)
    spoken_to, _, asked_terms = _facts(utterance.text)
    spoken_to |= {mention.casefold() for mention in utterance.mentions}
    reply_to, asker_id, started = utterance.reply_to, utterance.sender_id, utterance.started_at
    asker = _names(utterance.sender_name, asker_id)
    facts = [_facts(message.text) for message in earlier]
    names = [_names(message.sender_name, message.sender_id) for message in earlier]
    partners: set[str] = set()  # whom the asker addressed lately, and who addressed the asker
    if not spoken_to:
        for message, (addressed, _, _), own in zip(earlier, facts, names, strict=True):
            if addressed:
                if message.sender_id == asker_id:
                    partners |= addressed
                elif not asker.isdisjoint(addressed):
                    partners |= own
    distances = _LOG_DISTANCES[HORIZON - count :] if count <= HORIZON else [math.log1p(distance) for distance in range(count, 0, -1)]
    rows: list[tuple[float, ...]] = []
    for message, (addressed, asks, known), own, distance in zip(earlier, facts, names, distances, strict=True):
        gap = (started - message.sent_at).total_seconds()
        rows.append(
            (
                1.0 if message.message_id == reply_to else 0.0,
                distance,
                math.log1p(gap / 60) if gap > 0 else 0.0,
                1.0 if message.sender_id == asker_id else 0.0,
                0.0 if own.isdisjoint(spoken_to) else 1.0,
                0.0 if asker.isdisjoint(addressed) else 1.0,
                min(3.0, len(asked_terms & known)) if known else 0.0,
                0.0 if own.isdisjoint(partners) else 1.0,
                1.0 if asks else 0.0,
            )
        )
    return rows


def rank(utterance: Utterance, earlier: Sequence[Message]) -> list[int]:
    """Indices of ``earlier`` (oldest first), likeliest antecedent first; of equals the latest."""
    target, distance, minutes, same, addressed, to_asker, shared, before, asks = WEIGHTS
    unlikely = [
        -(target * a + distance * b + minutes * c + same * d + addressed * e + to_asker * f + shared * g + before * h + asks * i)
        for a, b, c, d, e, f, g, h, i in features(utterance, earlier)
    ]
    return sorted(range(len(earlier) - 1, -1, -1), key=unlikely.__getitem__)


def select(utterance: Utterance, earlier: Sequence[Message], limit: int) -> list[Message]:
    """At most ``limit`` messages of ``earlier`` (oldest first): half the latest, so that the flow stays readable, half the likeliest antecedents."""
    if len(earlier) <= limit:
        return list(earlier)
    kept = set(range(len(earlier) - limit // 2, len(earlier)))
    for index in rank(utterance, earlier):
        if len(kept) >= limit:
            break
        kept.add(index)
    return [earlier[index] for index in sorted(kept)]


def said_before(moment: datetime, arrived: Iterable[Message], since: Iterable[Message]) -> list[Message]:
    """The last :data:`HORIZON` messages that were sent before a question whose last message was sent at ``moment``, oldest first.

    The platform's times decide, for messages arrive late and out of order; of those of the very same time, which may be whole seconds, those that ``arrived`` before the question
    count and those that arrived ``since`` do not.
    """
    said = [*(message for message in arrived if message.sent_at <= moment), *(message for message in since if message.sent_at < moment)]
    return sorted(said, key=attrgetter("sent_at"))[-HORIZON:]


def without_copies(earlier: Sequence[Message], quoted: str | None) -> list[Message]:
    """``earlier`` (oldest first) without the messages that repeat one before them; of two that are the same the ``quoted`` one stays."""
    kept: list[Message] = []
    places: dict[tuple[str, str], int] = {}
    for message in earlier:
        said = (message.sender_id, message.text)
        place = places.get(said)
        if place is None or not message.repeats(kept[place]):
            places[said] = len(kept)
            kept.append(message)
        elif message.message_id == quoted:
            kept[place] = message
    return kept


class ConversationMemory:
    """The latest messages of each conversation, in order of arrival; older ones are read from the inbox when a question needs them."""

    def __init__(self, inbox: Inbox, context_lines: int, *, conversations: int = 512) -> None:
        self._inbox, self._limit = inbox, context_lines
        self._kept: OrderedDict[ConversationKey, deque[Message]] = OrderedDict()
        self._conversations = conversations

    async def add(self, message: Message) -> None:
        """Take a stored message. The first of a conversation brings what the inbox holds before it."""
        kept = self._kept.get(message.conversation)
        if kept is None:
            kept = self._kept[message.conversation] = deque(await self._inbox.history(message, HORIZON), maxlen=REMEMBERED)
            if len(self._kept) > self._conversations:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(message.conversation)
        kept.append(message)

    def remove(self, conversation: ConversationKey, message_id: str) -> None:
        kept = self._kept.get(conversation)
        if kept is not None:
            remaining = [message for message in kept if message.message_id != message_id]
            kept.clear()
            kept.extend(remaining)

    async def question(self, utterance: Utterance, rule: str, glossary: tuple[str, ...]) -> Question | None:
        """The question that ``utterance`` asks, with what was said before it. None when it only repeats what was said under other ids."""
        own = {message.message_id for message in utterance.messages}
        arrived, since = await self._around(utterance.messages[-1], own)
        if all(any(map(message.repeats, arrived[-HORIZON:])) for message in utterance.messages):
            return None
        earlier = said_before(utterance.ended_at, arrived, since)
        reply_to, started = utterance.reply_to, utterance.started_at
        earlier = without_copies([*await self._quoted_from_afar(utterance, own, earlier), *earlier], reply_to)
        lines = tuple(
            ContextLine(
                sender=message.shown_name,
                text=shorten(message.text, LINE_CHARS),
                message_id=message.message_id,
                seconds_before=max(0.0, (started - message.sent_at).total_seconds()),
                is_reply_target=message.message_id == reply_to,
            )
            for message in select(utterance, earlier, self._limit)
        )
        return Question(
            id=utterance.id,
            conversation=utterance.conversation,
            sender=utterance.sender_name or utterance.sender_id,
            text=utterance.text,
            asked_at=utterance.started_at,
            context=lines,
            message_ids=tuple(message.message_id for message in utterance.messages),
            sender_id=utterance.sender_id,
            chat_name=utterance.messages[-1].chat_name,
            rule=rule,
            glossary=glossary,
            quotes_unseen=reply_to is not None and reply_to not in own and not split_quote(utterance.text)[1] and all(message.message_id != reply_to for message in earlier),
        )

    async def _quoted_from_afar(self, utterance: Utterance, own: set[str], earlier: Sequence[Message]) -> list[Message]:
        """The quoted message where it is older than all of ``earlier``: nothing tells more of what a question is about, and people quote what others have forgotten."""
        quoted = utterance.reply_to
        if quoted is None or quoted in own or any(message.message_id == quoted for message in earlier):
            return []
        found = await self._inbox.find(utterance.conversation, quoted)
        return [] if found is None else [found]

    async def _around(self, last: Message, own: set[str]) -> tuple[list[Message], list[Message]]:
        """What arrived before ``last``, and what is remembered of what arrived since, both in order of arrival and without the question's ``own`` messages."""
        kept = list(self._kept.get(last.conversation, ()))
        position = next((index for index in range(len(kept) - 1, -1, -1) if kept[index].message_id == last.message_id), -1)
        before = kept[: max(position, 0)]
        if position < 0 or (position < HORIZON + len(own) and len(kept) == REMEMBERED):  # so much was said while the utterance was open that the memory rolled on
            before = await self._inbox.history(last, REMEMBERED)
        return [message for message in before if message.message_id not in own], [message for message in kept[position + 1 :] if message.message_id not in own]
