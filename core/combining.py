"""How the scores of the trees and those of a pointer and a reader become one ranking of the shortlist, and how sure its first term is: a weighted sum, and a logistic model over
what all of them say of its first term."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.antecedent_features import TERM_FEATURES, Array, Scene, asks_for_two
from core.antecedents import Term
from core.grounding import squeeze
from core.second_reading import LACKS, SECOND_FEATURES, Second

#: Encoders that point at a term, each in the file of its name; trained apart from each other.
POINTERS = ("pointer", "second_pointer")
#: What may speak beside the trees, in the order of the weights.
SOURCES = (*POINTERS, "reader")
#: Terms that all sources rank, at most.
SHORTLIST = 12
_ALWAYS = (
    "margin",
    "share_of_kin",
    "share",
    "score_margin",
    "plain_log_odds",
    "ranker_agrees",
    "line_first",
    "line_margin",
    "n_terms",
    "n_kin",
    "quotes",
    "asks_for_two",
)
_OF_A_SOURCE = ("first", "margin", "best", "agrees")
#: Features of the second reading that the confidence hears too.
_HEARD_AGAIN = SECOND_FEATURES[:3]
_OF_THE_SECOND = (*(f"second_{name}" for name in _HEARD_AGAIN), "lacks", "two_put_in")


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the trees make of a question: its candidate terms with features (n, len(TERM_FEATURES)) and scores (n,), and the probabilities of its lines (m,).

    ``points`` (n,) of each pointer that runs: log-odds; ``point_weights``: how much they count for the shortlist.
    """

    scene: Scene
    terms: tuple[Term, ...]
    rows: Array
    scores: Array
    line_scores: Array
    points: Mapping[str, Array] = field(default_factory=dict)
    point_weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def shortlist(self) -> list[int]:
        """Indices of the terms that all sources rank, best first."""
        return shortlist(self.scores + sum(self.point_weights.get(name, 0.0) * points for name, points in self.points.items()))


def shortlist(scores: Array, most: int = SHORTLIST) -> list[int]:
    """Indices of the best candidates, best first."""
    return [int(index) for index in np.argsort(-scores, kind="stable")[:most]]


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


@dataclass(frozen=True, slots=True)
class Logistic:
    """Logistic regression on standardised features."""

    mean: Array
    scale: Array
    weights: Array
    bias: float

    def __call__(self, row: Array) -> float:
        z = float(self.weights @ ((np.nan_to_num(row, nan=0.0) - self.mean) / self.scale)) + self.bias
        return 1.0 / (1.0 + math.exp(-max(-40.0, min(40.0, z))))

    @classmethod
    def of(cls, data: dict[str, Any]) -> Logistic:
        return cls(np.array(data["mean"]), np.array(data["scale"]), np.array(data["weights"]), float(data["bias"]))


def combined_names(sources: Sequence[str]) -> tuple[str, ...]:
    """Names of :func:`combined_features` where ``sources`` speak."""
    of_sources = (f"{source}_{part}" for source in sources for part in _OF_A_SOURCE)
    second = _OF_THE_SECOND if reads_again(sources) else ()
    return (*_ALWAYS, *of_sources, *TERM_FEATURES, *(f"{name}_lead" for name in TERM_FEATURES), *second)


def reads_again(sources: Iterable[str]) -> bool:
    """Whether one of ``sources`` looks for a second thing (:mod:`core.second_reading`): the first of the pointers does."""
    return POINTERS[0] in sources


def second_look(second: Second | None, lacks: float) -> list[float]:
    """What the second reading adds to the features of the confidence; ``lacks`` is the probability that the question lacks what it found."""
    heard = second.features[: len(_HEARD_AGAIN)] if second is not None else [0.0] * len(_HEARD_AGAIN)
    return [*heard, lacks, float(lacks >= LACKS)]


def combined_features(found: Candidates, total: Array, values: Mapping[str, Array], plain: float) -> Array:
    """What tells whether the first term of the shortlist is right, without what a second reading says: the first of ``combined_names(values)``.

    ``total`` (k,), which ranks them, and the ``values`` of each source (k,) are of the shortlist, ``plain`` is the confidence of the trees alone. The term's own features
    come with their lead over those of its best rival: the best term that neither holds it nor is held by it.
    """
    chosen = found.shortlist
    order = np.argsort(-total, kind="stable")
    best, share = order[0], softmax(total)
    keys = [found.terms[index].key for index in chosen]
    kin = [i for i, key in enumerate(keys) if key in keys[best] or keys[best] in key]
    rival = next((i for i in order if i not in kin), None)

    def gap(scores: Array) -> float:
        return float(scores[best] - (scores[rival] if rival is not None else scores.min() - 1.0))

    ranked, scores = np.sort(found.line_scores)[::-1], found.scores[chosen]
    own = found.rows[chosen[best]]
    return np.array([
        gap(total), share[kin].sum(), share[best], gap(scores), math.log(max(plain, 1e-6) / max(1.0 - plain, 1e-6)), 0 in kin,
        ranked[0], ranked[0] - (ranked[1] if len(ranked) > 1 else 0.0), len(found.terms), len(kin), bool(found.scene.quote), asks_for_two(found.scene.question),
        *(part for said in values.values() for part in (said[best], gap(said), said.max(), int(np.argmax(said)) in kin)),
        *own, *(own - (found.rows[chosen[rival]] if rival is not None else 0.0)),
    ])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Combination:
    """What the trees and ``sources`` say together: a weight for the score of the trees and one for each source, and the confidence of the first term.

    ``threshold`` is the least confidence of an accepted rewrite, ``reply_threshold`` of one whose term stands in the message that the question quotes: each leaves at most three
    in twenty that are not right. ``lacks``: how likely a question lacks the second thing that was found, where a pointer reads again.
    """

    sources: tuple[str, ...]
    weights: tuple[float, ...]
    confidence: Logistic
    threshold: float
    reply_threshold: float
    lacks: Logistic | None = None

    @classmethod
    def of(cls, data: dict[str, Any]) -> Combination:
        weights = tuple(float(weight) for weight in data["weights"])
        lacks = Logistic.of(data["lacks"]) if data.get("lacks") else None
        return cls(tuple(data["sources"]), weights, Logistic.of(data["confidence"]), float(data["threshold"]), float(data["reply_threshold"]), lacks)

    def total(self, found: Candidates, values: Mapping[str, Array]) -> Array:
        """What ranks the shortlist, (k,)."""
        return combine(self.weights, found.scores[found.shortlist], values)

    def least_confidence(self, scene: Scene, term: Term) -> float:
        """Of an accepted rewrite with ``term``: a quoted picture names nothing, and makes no other term surer."""
        return self.reply_threshold if term.key in squeeze(scene.quote) else self.threshold


def combine(weights: Sequence[float], scores: Array, values: Mapping[str, Array]) -> Array:
    """Weighted sum of the trees' scores (k,) and those of each source (k,)."""
    return np.asarray(weights[0] * scores + sum(weight * said for weight, said in zip(weights[1:], values.values(), strict=True)))
