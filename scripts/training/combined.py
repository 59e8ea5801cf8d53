"""How scores of the trees, points of the pointer and margins of the judge become one ranking and one confidence: fitted on authors that none of them saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.antecedent_features import Array
from core.combining import SOURCES, Candidates, Logistic, combine, combined_features, combined_names, softmax
from scripts.training.ranker import CONFIDENCE_PENALTY, MOST_WRONG, Scored, case_weights, choose_threshold, curve, fit_logistic
from scripts.training.ranker_data import REPLY, Case, author, rewritten_right

#: Numbers by the id of a case and the index of a term.
Said = Mapping[str, Mapping[int, float]]


def points_of(found: Sequence[Case], scored: Scored, pointed: Said) -> tuple[dict[str, Array], float]:
    """(log-odds of all terms by the id of the case, how much they count beside the trees' scores for the shortlist: by maximum likelihood of a right term)."""
    points = {name: np.array([said[term] for term in range(len(said))]) for name, said in pointed.items()}
    known = [(scored.scores[i], points[case.id], case.grades >= 1) for i, case in enumerate(found) if case.id in points and case.resolvable and case.grades.any()]
    if not known:
        return points, 0.0
    trees, pointer = fit_weights(known)
    return points, pointer / max(trees, 1e-3)


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


class Combined:
    """Held-out questions with candidates, what each source says of their shortlists, and what is right. ``said``: numbers by source, id of the case and index of the term;
    cases that a source left out do not count."""

    def __init__(self, found: Sequence[Case], scored: Scored, said: Mapping[str, Said]) -> None:
        chosen = [i for i, case in enumerate(found) if all(case.id in answers for answers in said.values())]
        self.sources = tuple(said)
        self.cases = [found[i] for i in chosen]
        points, self.point_weight = points_of(found, scored, said.get("pointer", {}))
        self.candidates = [
            Candidates(found[i].scene, tuple(found[i].terms), scored.rows[i], scored.scores[i], scored.line_scores[i], points.get(found[i].id), self.point_weight) for i in chosen
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
        self._known: dict[tuple[int, int], bool] = {}

    def fit_weights(self, rows: Sequence[int]) -> tuple[float, ...]:
        """Of the trees' score and of each source: maximum likelihood of a right candidate of the shortlist."""
        return fit_weights([(self.scores[i], *self.values[i].values(), self.grades[i] >= 1) for i in rows if (self.grades[i] >= 1).any()])

    def combined(self, i: int, weights: Sequence[float]) -> Array:
        return combine(weights, self.scores[i], self.values[i])

    def first(self, i: int, weights: Sequence[float]) -> int:
        """Index into the case's terms of the best candidate."""
        return self.candidates[i].shortlist[int(np.argsort(-self.combined(i, weights), kind="stable")[0])]

    def right(self, weights: Sequence[float]) -> NDArray[np.bool_]:
        """Whether the best candidate makes a right rewrite: one that holds everything that gold adds."""
        return np.array([self._is_right(i, self.first(i, weights)) for i in range(len(self.cases))])

    def _is_right(self, i: int, term: int) -> bool:
        if (i, term) not in self._known:
            self._known[i, term] = rewritten_right(self.cases[i], self.cases[i].terms[term])
        return self._known[i, term]

    def names_it(self, weights: Sequence[float]) -> NDArray[np.bool_]:
        """Whether the best candidate is the right thing, or a part of it."""
        return np.array([case.grades[self.first(i, weights)] >= 1 for i, case in enumerate(self.cases)])

    def threshold(self, some: NDArray[np.bool_], confidence: Array, right: NDArray[np.bool_]) -> float:
        """The lowest that leaves at most MOST_WRONG not ``right`` among ``some``; a thousand questions are too few for a bound on a few in a hundred."""
        return choose_threshold(confidence[some], right[some], self.weights[some], errors=0.0) if some.any() else 1.01

    def curve(self, some: NDArray[np.bool_], confidence: Array, right: NDArray[np.bool_]) -> list[dict[str, float]]:
        chosen = np.flatnonzero(some).tolist()
        return curve([self.cases[i] for i in chosen], confidence[some], right[some]) if chosen else []

    def reply_figures(self, weights: Sequence[float], right: NDArray[np.bool_]) -> dict[str, float]:
        """Of the questions that quote a message, those whose reply was put in (REPLY) and those of the windows themselves."""
        named = self.names_it(weights)
        figures: dict[str, float] = {}
        put_in = np.array([case.id.endswith(REPLY) for case in self.cases])
        for name, some in (("put_in", put_in & self.resolvable), ("written", self.quotes & ~put_in & self.resolvable)):
            if some.any():
                figures |= {name: int(some.sum()), f"{name}_names_it": float(named[some].mean()), f"{name}_right": float(right[some].mean())}
        return figures

    def rows(self, weights: Sequence[float]) -> Array:
        plain = zip(self.candidates, self.values, self.plain, strict=True)
        return np.array([combined_features(found, self.combined(i, weights), values, float(sure)) for i, (found, values, sure) in enumerate(plain)])

    def crossed(self) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_]]:
        """(confidence, right, names it) of every question, each from weights that never saw its author."""
        confidence, right, named = np.zeros(len(self.cases)), np.zeros(len(self.cases), dtype=bool), np.zeros(len(self.cases), dtype=bool)
        for name in sorted(set(self.authors)):
            test = self.authors == name
            train = np.flatnonzero(~test)
            weights = self.fit_weights(train.tolist())
            rows, own, names = self.rows(weights), self.right(weights), self.names_it(weights)
            logistic = Logistic.of(fit_logistic(rows[train], own[train], self.weights[train], combined_names(self.sources), CONFIDENCE_PENALTY))
            for i in np.flatnonzero(test).tolist():
                confidence[i], right[i], named[i] = logistic(rows[i]), own[i], names[i]
        return confidence, right, named


def fit_combinations(found: Sequence[Case], scored: Scored, said: Mapping[str, Said]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(the entries ``combined`` of meta.json, figures across the held authors), for every choice of the sources in ``said``: any of them may fail or be left out."""
    names = [name for name in SOURCES if name in said]
    entries, figures = [], {}
    for count in range(1, len(names) + 1):
        for some in combinations(names, count):
            entry, figures["+".join(some)] = _fit(Combined(found, scored, {name: said[name] for name in some}))
            entries.append(entry)
    return entries, figures


def _fit(held: Combined) -> tuple[dict[str, Any], dict[str, Any]]:
    confidence, right, named = held.crossed()
    weights = held.fit_weights(list(range(len(held.cases))))
    entry = {
        "sources": list(held.sources),
        "weights": list(weights),
        "confidence": fit_logistic(held.rows(weights), held.right(weights), held.weights, combined_names(held.sources), CONFIDENCE_PENALTY),
        "threshold": held.threshold(~held.quotes, confidence, right),
        "reply_threshold": held.threshold(held.quotes, confidence, right),
    }  # fmt: skip
    some = held.resolvable & ~held.quotes
    figures = {
        "questions": len(held.cases), "resolvable": int(some.sum()), "authors": sorted(set(held.authors.tolist())), "most_wrong": MOST_WRONG, "weights": list(weights),
        "threshold": entry["threshold"], "reply_threshold": entry["reply_threshold"],
        "first_names_it": float(named[some].mean()), "first_right": float(right[some].mean()),
        "trees_alone": _alone(held, some, 0), **{f"{name}_alone": _alone(held, some, 1 + index) for index, name in enumerate(held.sources)},
        "curve": held.curve(~held.quotes, confidence, right), "replies": held.reply_figures(weights, right),
        "reply_curve": held.curve(held.quotes, confidence, right),
    }  # fmt: skip
    return entry, figures


def _alone(held: Combined, some: NDArray[np.bool_], which: int) -> dict[str, float]:
    weights = [float(index == which) for index in range(1 + len(held.sources))]
    return {"first_names_it": float(held.names_it(weights)[some].mean()), "first_right": float(held.right(weights)[some].mean())}
