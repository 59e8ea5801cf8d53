"""Questions made from what members said: a message names something again that was named before, and the name is taken out.

Who means which thing is known then without anybody's label: by construction, as in CorefBERT's mention reference prediction (Ye et al. 2020, arXiv 2004.06870). A piece of another
conversation is mixed into half of the windows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from core.antecedent_features import Array
from core.antecedents import collect, spans
from core.grounding import squeeze
from scripts.training.ranker_data import Case, cases

#: Shares of the ways in which a name is taken out; the rest of the names get a pronoun.
LEFT_OUT, CLASS_KEPT = 0.5, 0.3
PRONOUNS = {"zh": ("它", "它", "它", "这个", "那个", "这", "那"), "en": ("it", "it", "that", "this")}
#: Share of the windows into which a piece of another one is mixed, and how many of its messages.
MIXED, PIECE = 0.5, (2, 5)
#: A name in Chinese characters alone counts where it is that long, or where so few windows have it.
LONG_NAME, SELDOM = 4, 30
_LEAST_LEFT, _MOST_CHARS = 3, 120


def constructed(windows: Sequence[dict[str, Any]], frequency: Mapping[str, int], seed: int) -> list[Case]:
    """At most one question for each message that names something again; messages of questions that need resolution are left alone. ``frequency``: in how many windows a word stands
    (:func:`scripts.training.ranker_data.word_frequency`)."""
    made = []
    for window in windows:
        rng = random.Random(f"{seed}-{window['id']}")
        open_questions = {index for one in window["questions"] if one["label"] == "yes" for index in one["indices"]}
        for index in range(2, len(window["messages"])):
            one = _taken_out(window, index, frequency, rng) if index not in open_questions else None
            if one is not None:
                other = rng.choice(windows)
                made.append(mixed(one, other, rng) if rng.random() < MIXED and other.get("lang") == window.get("lang") and other["id"] != window["id"] else one)
    return cases(made, replies=0.15, seed=seed)


def shown_lines(case: Case, rng: random.Random) -> Array:
    """Scores by which the lines of a constructed question are shown (n,): the antecedent's in any case, of the others rather the late ones. No line ranker has seen it."""
    n = len(case.scene.lines)
    scores: Array = np.arange(n) / n + np.array([rng.random() for _ in range(n)])
    return np.where(case.antecedent, 2.0, scores)


def _taken_out(window: Mapping[str, Any], index: int, frequency: Mapping[str, int], rng: random.Random) -> dict[str, Any] | None:
    """A window that ends in its message ``index`` without a name that stands earlier; None where there is none."""
    messages = window["messages"]
    text: str = messages[index]["text"]
    if len(text) > _MOST_CHARS:
        return None
    known = {term.key: term.lines for term in collect([message["text"] for message in messages[:index]])}
    found = [(start, end) for start, end, tags in spans(text) if (key := squeeze(text[start:end])) in known and _is_name(key, tags, frequency)]
    longest = [(s, e) for s, e in found if not any((a, b) != (s, e) and a <= s and e <= b for a, b in found)]
    if not longest:
        return None
    start, end = rng.choice(longest)
    key = squeeze(text[start:end])
    asked = _without(text, start, end, window.get("lang", "zh"), rng)
    if key in squeeze(asked) or len(squeeze(asked)) < _LEAST_LEFT:
        return None
    question = {"indices": [index], "label": "yes", "gold": text, "antecedent_indices": known[key], "kind": "constructed"}
    return {**window, "id": f"{window['id']}@{index}", "messages": [*messages[:index], {**messages[index], "text": asked}], "questions": [question]}


def _is_name(key: str, tags: str, frequency: Mapping[str, int]) -> bool:
    return "L" in tags or len(key) >= LONG_NAME or frequency.get(key, 0) <= SELDOM


def _without(text: str, start: int, end: int, language: str, rng: random.Random) -> str:
    """``text`` with another word, or none, in place of the name from ``start`` to ``end``."""
    before, after = text[:start].rstrip(), text[end:].lstrip()
    chance = rng.random()
    if chance < LEFT_OUT:
        if not before or before[-1] in "，。,.!！?？":
            after = after.removeprefix("的").lstrip()
        return _joined(before, after)
    words = [text[a:b] for a, b, tags in spans(text[:end]) if b == end and a > start and tags == "N"]
    if words and chance < LEFT_OUT + CLASS_KEPT:
        said = "that " if language == "en" else rng.choice(("那个", "这个", "这", "那"))
        return _joined(_joined(before, said + min(words, key=len)), after)
    return _joined(_joined(before, rng.choice(PRONOUNS.get(language, PRONOUNS["zh"]))), after)


def _joined(before: str, after: str) -> str:
    """With a space between two Latin words."""
    return f"{before} {after}" if before[-1:].isascii() and before[-1:].isalnum() and after[:1].isascii() and after[:1].isalnum() else before + after


def mixed(window: Mapping[str, Any], other: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """``window``, which has one question, with some messages of ``other`` put in before the question; as it was where they name what is meant."""
    messages, (question,) = window["messages"], window["questions"]
    size = rng.randint(*PIECE)
    first = rng.randrange(max(1, len(other["messages"]) - size))
    piece = other["messages"][first : first + size]
    names = {term.key for at in question["antecedent_indices"] for term in collect([messages[at]["text"]])}
    if names & {term.key for term in collect([message["text"] for message in piece])}:
        return dict(window)
    place = rng.randint(1, question["indices"][0])
    start, end = (datetime.fromisoformat(messages[at]["at"]) for at in (place - 1, place))
    members = {message["sender"] for message in messages}
    times = [(start + (end - start) * (k + 1) / (size + 1)).isoformat() for k in range(size)]
    senders = [message["sender"] + ("_" if message["sender"] in members else "") for message in piece]
    put_in = [{"sender": sender, "text": message["text"], "at": at} for sender, message, at in zip(senders, piece, times, strict=False)]

    def moved(at: int) -> int:
        return at + len(piece) if at >= place else at

    lines = [{**message, "reply_to": moved(message["reply_to"])} if message.get("reply_to") is not None else message for message in messages]
    asked = {**question, "indices": [moved(at) for at in question["indices"]], "antecedent_indices": [moved(at) for at in question["antecedent_indices"]]}
    return {**window, "messages": [*lines[:place], *put_in, *lines[place:]], "questions": [asked]}
