"""A second look at a question with its first antecedent put in: does it still lack something, and what?

"这参数两头都要设吗" needs "srt" and "latency": one of them says half. The pointer that helped to find the first reads the conversation again, with what was found and the question;
a logistic model over what it says then tells how likely the question lacks the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.antecedent_features import Array, Scene, asks_for_two
from core.antecedents import Term

#: From this probability on the second thing is put in as well.
LACKS = 0.5
SECOND_FEATURES = (
    "best", "margin", "kin", "asks_for_two", "points", "points_behind_first", "points_margin", "same_line", "lines_apart", "latin", "first_latin", "length", "question_length",
)  # fmt: skip
_HAN = re.compile(r"[\u3400-\u9fff]")
#: A question that names two places at once has no one slot for both.
_BOTH_PLACES = re.compile(r"前者.*后者|后者.*前者|(?:the )?former.*latter|latter.*former", re.I)


@dataclass(frozen=True, slots=True)
class Second:
    """The likeliest second thing: its index among the terms, and what tells whether the question lacks it, (len(SECOND_FEATURES),)."""

    index: int
    features: Array


def asked_again(scene: Scene, first: Term) -> Scene:
    """``scene`` as the second reading sees it: what was found in front of the question, whose own words stay ("这俩" tells that another is to come)."""
    return replace(scene, question=f"{first.text} + {scene.question}")


def rest_of(terms: Sequence[Term], first: Term) -> list[int]:
    """Indices of the terms that neither hold ``first`` nor are held by it."""
    return [index for index, term in enumerate(terms) if term.key not in first.key and first.key not in term.key]


def second_of(scene: Scene, terms: Sequence[Term], first: int, points: Array, rest: Sequence[int], again: Array) -> Second | None:
    """What the second reading makes of the terms ``rest``; None without any.

    ``points`` (n,) are the pointer's log-odds of all terms at the first reading, ``again`` (len(rest),) those at the second.
    """
    if not rest or _BOTH_PLACES.search(scene.question):
        return None
    best = int(np.argmax(again))
    index, other = rest[best], terms[rest[best]]
    kin = np.array([terms[i].key in other.key or other.key in terms[i].key for i in rest])
    rivals, read_first, own = again[~kin], points[np.array(rest)[~kin]], terms[first]
    features = np.array([
        again[best], again[best] - (rivals.max() if rivals.size else again.min() - 1.0), np.logaddexp.reduce(again[kin]), asks_for_two(scene.question), points[index],
        points[first] - points[index], points[index] - (read_first.max() if read_first.size else points.min() - 1.0), bool(set(other.lines) & set(own.lines)),
        min(abs(a - b) for a in other.lines for b in own.lines), "L" in other.tags, "L" in own.tags, len(other.text), len(scene.question),
    ])  # fmt: skip
    return Second(index, features)


def both(question: str, first: Term, second: Term) -> str:
    """Both as one phrase in the order in which they were first named: "A和B" where the question speaks of two of a kind, else "A的B"; "A and B", "A B" in English."""
    one, other = sorted((first, second), key=lambda term: min(term.mentions))
    chinese = bool(_HAN.search(question))
    if asks_for_two(question):
        return f"{one.text}和{other.text}" if chinese else f"{one.text} and {other.text}"
    return f"{one.text}的{other.text}" if chinese else f"{one.text} {other.text}"
