"""How scores of the trees and what pointer and reader say become one ranking and one confidence: fitted on authors that none of them saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.antecedent_features import Array
from core.combining import POINTERS, SOURCES, Candidates, Logistic, combine, combined_features, combined_names, reads_again, second_look, softmax
from core.errors import InputError
from core.second_reading import LACKS, SECOND_FEATURES, Second, both, rest_of, second_of
from scripts.training.asked_again import missing, says_all
from scripts.training.ranker import MOST_WRONG, Scored, case_weights, choose_threshold, curve, fit_logistic
from scripts.training.ranker_data import REPLY, Case, author, rewritten_right

#: scikit-learn's C of the confidence: many features, some thousand questions.
COMBINED_PENALTY = 0.005
#: That of the probability that a question lacks a second thing: few features.
LACKS_PENALTY = 0.05
#: Numbers by the id of a case and the index of a term.
Said = Mapping[str, Mapping[int, float]]


def points_of(found: Sequence[Case], scored: Scored, said: Mapping[str, Said]) -> tuple[dict[str, dict[str, Array]], dict[str, float]]:
    """(log-odds of all terms by the id of the case and the pointer, how much those of each pointer count beside the trees' scores for the shortlist: by maximum likelihood of a
    right term)."""
    pointers = [name for name in POINTERS if name in said]
    points: dict[str, dict[str, Array]] = {}
    for case in found:
        if pointers and all(case.id in said[name] for name in pointers):
            points[case.id] = {name: np.array([said[name][case.id][term] for term in range(len(case.terms))]) for name in pointers}
    known = [(scored.scores[i], *points[case.id].values(), case.grades >= 1) for i, case in enumerate(found) if case.id in points and case.resolvable and case.grades.any()]
    if not known:
        return points, {}
    trees, *weights = fit_weights(known)
    return points, {name: weight / max(trees, 1e-3) for name, weight in zip(pointers, weights, strict=True)}


def fit_weights(known: Sequence[tuple[Any, ...]]) -> tuple[float, ...]:
    """A weight for each of the numbers of a question: ``known`` are (numbers (k,) ..., which of the terms are right (k,))."""
    from scipy.optimize import minimize

    def cost(weights: Array) -> float:
        total = 0.0
        for *numbers, right in known:
            share = softmax(np.asarray(sum(weight * said for weight, said in zip(weights, numbers, strict=True))))
            total -= float(np.log(share[right].sum() + 1e-12))
        return total / max(1, len(known)) + 0.001 * float(weights @ weights)

    sources = len(known[0]) - 1 if known else 1
    return tuple(map(float, minimize(cost, np.array([1.0, *[0.5] * (sources - 1)]), method="Nelder-Mead").x))


#: Log-odds of the terms beside the first one (of this index), by the pointer's second reading of each case (with its line scores).
ReadAgain = Callable[[Sequence[tuple[Case, int, Array]]], list[Array]]


@dataclass(frozen=True, slots=True)
class Crossed:
    """Every case by what never saw its author: the features of its confidence and the confidence, whether what is put in is right, whether the first term names what is meant,
    and whether two are put in. ``lacks``: the model that chose the latter, fitted on all."""

    rows: Array
    confidence: Array
    right: NDArray[np.bool_]
    named: NDArray[np.bool_]
    two: NDArray[np.bool_]
    lacks: dict[str, Any] | None = None


class Combined:
    """Held-out questions with candidates, what each source says of their shortlists, and what is right. ``said``: numbers by source, id of the case and index of the term;
    cases that a source left out do not count. ``read_again``: where a pointer looks for a second thing."""

    def __init__(self, found: Sequence[Case], scored: Scored, said: Mapping[str, Said], read_again: ReadAgain | None = None) -> None:
        chosen = [i for i, case in enumerate(found) if all(case.id in answers for answers in said.values())]
        self.sources = tuple(said)
        self._read_again = read_again if reads_again(said) else None
        self.cases = [found[i] for i in chosen]
        points, weights = points_of(found, scored, said)
        self.candidates = [
            Candidates(found[i].scene, tuple(found[i].terms), scored.rows[i], scored.scores[i], scored.line_scores[i], points.get(found[i].id, {}), weights) for i in chosen
        ]
        self.values = [
            {name: np.array([answers[case.id][term] for term in own.shortlist]) for name, answers in said.items()} for case, own in zip(self.cases, self.candidates, strict=True)
        ]
        self.plain = scored.confidence[chosen]
        self.grades = [case.grades[found_.shortlist] for case, found_ in zip(self.cases, self.candidates, strict=True)]
        self.scores = [found_.scores[found_.shortlist] for found_ in self.candidates]
        self.authors = np.array([author(case.id) for case in self.cases])
        self.weights = case_weights(self.cases)
        self.quotes = np.array([bool(case.scene.quote) for case in self.cases])
        self.resolvable = np.array([case.resolvable for case in self.cases])

    def fit(self, rows: Sequence[int]) -> tuple[float, ...]:
        """The weights of trees and sources: of these cases, by maximum likelihood of a term that names what is meant."""
        return fit_weights([(self.scores[i], *self.values[i].values(), self.grades[i] >= 1) for i in rows if (self.grades[i] >= 1).any()])

    def total(self, i: int, weights: Sequence[float]) -> Array:
        """What ranks the shortlist of a case, (k,)."""
        return combine(weights, self.scores[i], self.values[i])

    def first(self, totals: Sequence[Array]) -> list[int]:
        """Index of the best term of each case."""
        return [found.shortlist[int(np.argsort(-total, kind="stable")[0])] for found, total in zip(self.candidates, totals, strict=True)]

    def right(self, totals: Sequence[Array]) -> NDArray[np.bool_]:
        """Whether the best candidate alone makes a right rewrite: one that holds everything that gold adds."""
        return np.array([rewritten_right(case, case.terms[first].text) for case, first in zip(self.cases, self.first(totals), strict=True)])

    def names_it(self, totals: Sequence[Array]) -> NDArray[np.bool_]:
        """Whether the best candidate is the right thing, or a part of it."""
        return np.array([self.grades[i][int(np.argsort(-total, kind="stable")[0])] >= 1 for i, total in enumerate(totals)])

    def threshold(self, some: NDArray[np.bool_], confidence: Array, right: NDArray[np.bool_]) -> float:
        """The lowest that leaves at most MOST_WRONG not ``right`` among ``some``, by an upper bound of two standard errors: it is the lowest of many that are tried."""
        return choose_threshold(confidence[some], right[some], self.weights[some], errors=2.0) if some.any() else 1.01

    def curve(self, some: NDArray[np.bool_], confidence: Array, right: NDArray[np.bool_]) -> list[dict[str, float]]:
        chosen = np.flatnonzero(some).tolist()
        return curve([self.cases[i] for i in chosen], confidence[some], right[some]) if chosen else []

    def reply_figures(self, named: NDArray[np.bool_], right: NDArray[np.bool_]) -> dict[str, float]:
        """Of the questions that quote a message, those whose reply was put in (REPLY) and those of the windows themselves."""
        figures: dict[str, float] = {}
        put_in = np.array([case.id.endswith(REPLY) for case in self.cases])
        for name, some in (("put_in", put_in & self.resolvable), ("written", self.quotes & ~put_in & self.resolvable)):
            if some.any():
                figures |= {name: int(some.sum()), f"{name}_names_it": float(named[some].mean()), f"{name}_right": float(right[some].mean())}
        return figures

    def rows(self, totals: Sequence[Array]) -> Array:
        """Features of the confidence of each case, (m, len(combined_names))."""
        plain = zip(self.candidates, totals, self.values, self.plain, strict=True)
        return np.array([combined_features(found, total, values, float(sure)) for found, total, values, sure in plain])

    def fit_confidence(self, rows: Array, right: NDArray[np.bool_], chosen: NDArray[np.int64]) -> dict[str, Any]:
        names = combined_names(self.sources)[: rows.shape[1]]
        return fit_logistic(rows[chosen], right[chosen], self.weights[chosen], names, COMBINED_PENALTY)

    def crossed(self) -> Crossed:
        """Every case ranked by what never saw its author."""
        totals = [np.zeros(0)] * len(self.cases)
        parts = [self.authors == name for name in sorted(set(self.authors.tolist()))]
        for test in parts:
            weights = self.fit(np.flatnonzero(~test).tolist())
            for i in np.flatnonzero(test).tolist():
                totals[i] = self.total(i, weights)
        rows, right, two, lacks = self.rows(totals), self.right(totals), np.zeros(len(self.cases), dtype=bool), None
        if self._read_again is not None:
            firsts = self.first(totals)
            seconds, lack = self._seconds(firsts)
            wanted = self._wanted(firsts, seconds)
            probable = np.zeros(len(self.cases))
            for test in parts:
                logistic = Logistic.of(self._fit_lacks(seconds, wanted, lack & ~test))
                probable[test] = [logistic(second.features) if second is not None else 0.0 for second, chosen in zip(seconds, test, strict=True) if chosen]
            two, lacks = probable >= LACKS, self._fit_lacks(seconds, wanted, lack)
            rows = np.hstack([rows, np.array([second_look(second, float(p)) for second, p in zip(seconds, probable, strict=True)])])
            right = np.where(two, self._both_right(firsts, seconds), right)
        confidence = np.zeros(len(self.cases))
        for test in parts:
            logistic = Logistic.of(self.fit_confidence(rows, right, np.flatnonzero(~test)))
            confidence[test] = [logistic(row) for row in rows[test]]
        return Crossed(rows, confidence, right, self.names_it(totals), two, lacks)

    def _seconds(self, firsts: Sequence[int]) -> tuple[list[Second | None], NDArray[np.bool_]]:
        """(what the second reading of each case finds beside its first term, the cases that tell whether that is lacking: those whose first term is right)."""
        assert self._read_again is not None
        pointer = POINTERS[0]
        again = self._read_again([(case, first, found.line_scores) for case, first, found in zip(self.cases, firsts, self.candidates, strict=True)])
        seconds = [
            second_of(found.scene, found.terms, first, found.points[pointer], rest_of(found.terms, found.terms[first]), said)
            for found, first, said in zip(self.candidates, firsts, again, strict=True)
        ]
        return seconds, np.array([case.resolvable and case.grades[first] >= 1 and one is not None for case, first, one in zip(self.cases, firsts, seconds, strict=True)])

    def _wanted(self, firsts: Sequence[int], seconds: Sequence[Second | None]) -> NDArray[np.bool_]:
        """Whether each case lacks what its second reading found."""
        some = zip(self.cases, firsts, seconds, strict=True)
        return np.array(
            [
                second is not None and case.resolvable and not says_all(case, case.terms[first], int(case.grades[first])) and missing(case, first)[second.index]
                for case, first, second in some
            ]
        )

    def _both_right(self, firsts: Sequence[int], seconds: Sequence[Second | None]) -> NDArray[np.bool_]:
        """Whether first and second term together make a right rewrite, and both name something that gold adds: naming two because one may be right is not right."""
        return np.array(
            [
                second is not None
                and bool(case.grades[[first, second.index]].min() >= 1)
                and rewritten_right(case, both(case.scene.question, case.terms[first], case.terms[second.index]))
                for case, first, second in zip(self.cases, firsts, seconds, strict=True)
            ]
        )

    def _fit_lacks(self, seconds: Sequence[Second | None], wanted: NDArray[np.bool_], some: NDArray[np.bool_]) -> dict[str, Any]:
        """Where no case of ``some`` lacks what was found, or all of them do, their share alone decides."""
        rows = np.array([second.features for second, chosen in zip(seconds, some, strict=True) if chosen and second is not None])
        lacking, n = int(wanted[some].sum()), len(rows)
        if lacking in (0, n):
            nothing = [0.0] * len(SECOND_FEATURES)
            bias = float(np.log((lacking + 0.5) / (n - lacking + 0.5)))
            return {"features": list(SECOND_FEATURES), "mean": nothing, "scale": [1.0] * len(nothing), "weights": nothing, "bias": bias - float(n == 0)}
        return fit_logistic(rows, wanted[some], np.ones(n), SECOND_FEATURES, LACKS_PENALTY)


def fit_combinations(found: Sequence[Case], scored: Scored, said: Mapping[str, Said], read_again: ReadAgain | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(the entries ``combined`` of meta.json, figures across the held authors), for what runs together of the sources in ``said``: the pointers, the reader, all of them.
    ``read_again``: see :class:`Combined`; needed where the first of the pointers speaks.

    :raises InputError: where the questions that all of them answered are not of two authors.
    """
    authors = {author(case.id) for case in found if all(case.id in answers for answers in said.values())}
    if len(authors) < 2:
        raise InputError(
            "the questions that pointer and reader were measured on", f"are of {len(authors)} authors", "Keep a fold of two authors and more out of their training (--held)."
        )
    pointers, others = [name for name in POINTERS if name in said], [name for name in SOURCES if name in said and name not in POINTERS]
    entries, figures = [], {}
    for some in [pointers, others, pointers + others] if pointers and others else [pointers + others]:
        entry, figures["+".join(some)] = _fit(Combined(found, scored, {name: said[name] for name in some}, read_again))
        entries.append(entry)
    return entries, figures


def _fit(held: Combined) -> tuple[dict[str, Any], dict[str, Any]]:
    crossed = held.crossed()
    weights = held.fit(list(range(len(held.cases))))
    entry = {
        "sources": list(held.sources),
        "weights": list(weights),
        "confidence": held.fit_confidence(crossed.rows, crossed.right, np.arange(len(held.cases))),
        "lacks": crossed.lacks,
        "threshold": held.threshold(~held.quotes, crossed.confidence, crossed.right),
        "reply_threshold": held.threshold(held.quotes, crossed.confidence, crossed.right),
    }  # fmt: skip
    some = held.resolvable & ~held.quotes
    figures = {
        "questions": len(held.cases), "resolvable": int(some.sum()), "authors": sorted(set(held.authors.tolist())), "most_wrong": MOST_WRONG, "weights": list(weights),
        "threshold": entry["threshold"], "reply_threshold": entry["reply_threshold"],
        "first_names_it": float(crossed.named[some].mean()), "right": float(crossed.right[some].mean()),
        "two_put_in": int(crossed.two[some].sum()), "two_right": int((crossed.two & crossed.right)[some].sum()),
        "trees_alone": _alone(held, some, 0), **{f"{name}_alone": _alone(held, some, 1 + index) for index, name in enumerate(held.sources)},
        "curve": held.curve(~held.quotes, crossed.confidence, crossed.right), "replies": held.reply_figures(crossed.named, crossed.right),
        "reply_curve": held.curve(held.quotes, crossed.confidence, crossed.right),
    }  # fmt: skip
    return entry, figures


def _alone(held: Combined, some: NDArray[np.bool_], which: int) -> dict[str, float]:
    return _summed(held, some, [float(index == which) for index in range(1 + len(held.sources))])


def _summed(held: Combined, some: NDArray[np.bool_], weights: Sequence[float]) -> dict[str, float]:
    totals = [combine(weights, scores, values) for scores, values in zip(held.scores, held.values, strict=True)]
    return {"first_names_it": float(held.names_it(totals)[some].mean()), "first_right": float(held.right(totals)[some].mean())}
