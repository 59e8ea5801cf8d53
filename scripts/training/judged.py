"""How scores of the trees and margins of the judge become one ranking and one confidence: fitted on authors that neither saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.antecedent_features import Array
from core.ranker import JUDGED_FEATURES, Candidates, Logistic, judged_features, softmax
from scripts.training.ranker import CONFIDENCE_PENALTY, MOST_WRONG, Scored, case_weights, choose_threshold, curve, fit_logistic
from scripts.training.ranker_data import REPLY, Case, author, holds_all


class Judged:
    """Held-out questions with candidates, margins of their shortlists, and what is right."""

    def __init__(self, found: Sequence[Case], scored: Scored, margins: dict[str, list[float]]) -> None:
        chosen = [i for i, case in enumerate(found) if case.id in margins]
        self.cases = [found[i] for i in chosen]
        self.margins = [np.array(margins[case.id]) for case in self.cases]
        self.candidates = [Candidates(found[i].scene, tuple(found[i].terms), scored.rows[i], scored.scores[i], scored.line_scores[i]) for i in chosen]
        self.plain = scored.confidence[chosen]
        self.grades = [case.grades[found_.shortlist] for case, found_ in zip(self.cases, self.candidates, strict=True)]
        self.scores = [found_.scores[found_.shortlist] for found_ in self.candidates]
        self.authors = np.array([author(case.id) for case in self.cases])
        self.weights = case_weights(self.cases)
        self.quotes = np.array([bool(case.scene.quote) for case in self.cases])
        self.resolvable = np.array([case.resolvable for case in self.cases])

    def fit_combination(self, rows: Sequence[int]) -> tuple[float, float]:
        """(weight of the tree score, weight of the margin): maximum likelihood of a right candidate of the shortlist."""
        from scipy.optimize import minimize

        known = [i for i in rows if (self.grades[i] >= 1).any()]

        def cost(weights: Array) -> float:
            total = 0.0
            for i in known:
                share = softmax(weights[0] * self.scores[i] + weights[1] * self.margins[i])
                total -= float(np.log(share[self.grades[i] >= 1].sum() + 1e-12))
            return total / max(1, len(known)) + 0.001 * float(weights @ weights)

        best = minimize(cost, np.array([1.0, 0.5]), method="Nelder-Mead").x
        return float(best[0]), float(best[1])

    def combined(self, i: int, weights: tuple[float, float]) -> Array:
        return weights[0] * self.scores[i] + weights[1] * self.margins[i]

    def first(self, i: int, weights: tuple[float, float]) -> int:
        """Index into the case's terms of the best candidate."""
        return self.candidates[i].shortlist[int(np.argsort(-self.combined(i, weights), kind="stable")[0])]

    def right(self, weights: tuple[float, float]) -> NDArray[np.bool_]:
        """Whether the best candidate holds every name that gold adds."""
        return np.array([holds_all(case, case.terms[self.first(i, weights)]) for i, case in enumerate(self.cases)])

    def names_it(self, weights: tuple[float, float]) -> NDArray[np.bool_]:
        """Whether the best candidate is the right thing, or a part of it."""
        return np.array([case.grades[self.first(i, weights)] >= 1 for i, case in enumerate(self.cases)])

    def threshold(self, some: NDArray[np.bool_], confidence: Array, right: NDArray[np.bool_]) -> float:
        """The lowest that leaves at most MOST_WRONG not ``right`` among ``some``; a thousand questions are too few for a bound on a few in a hundred."""
        return choose_threshold(confidence[some], right[some], self.weights[some], errors=0.0) if some.any() else 1.01

    def curve(self, some: NDArray[np.bool_], confidence: Array, right: NDArray[np.bool_]) -> list[dict[str, float]]:
        chosen = np.flatnonzero(some).tolist()
        return curve([self.cases[i] for i in chosen], confidence[some], right[some]) if chosen else []

    def reply_figures(self, weights: tuple[float, float], right: NDArray[np.bool_]) -> dict[str, float]:
        """Of the questions that quote a message, those whose reply was put in (REPLY) and those of the windows themselves."""
        named = self.names_it(weights)
        figures: dict[str, float] = {}
        put_in = np.array([case.id.endswith(REPLY) for case in self.cases])
        for name, some in (("put_in", put_in & self.resolvable), ("written", self.quotes & ~put_in & self.resolvable)):
            if some.any():
                figures |= {name: int(some.sum()), f"{name}_names_it": float(named[some].mean()), f"{name}_holds_all": float(right[some].mean())}
        return figures

    def rows(self, weights: tuple[float, float]) -> Array:
        plain = zip(self.candidates, self.margins, self.plain, strict=True)
        return np.array([judged_features(found, self.combined(i, weights), margins, float(sure)) for i, (found, margins, sure) in enumerate(plain)])

    def crossed(self) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_]]:
        """(confidence, right, names it) of every question, each from models that never saw its author."""
        confidence, right, named = np.zeros(len(self.cases)), np.zeros(len(self.cases), dtype=bool), np.zeros(len(self.cases), dtype=bool)
        for name in sorted(set(self.authors)):
            test = self.authors == name
            train = np.flatnonzero(~test)
            weights = self.fit_combination(train.tolist())
            rows, own, names = self.rows(weights), self.right(weights), self.names_it(weights)
            logistic = Logistic.of(fit_logistic(rows[train], own[train], self.weights[train], JUDGED_FEATURES, CONFIDENCE_PENALTY))
            for i in np.flatnonzero(test).tolist():
                confidence[i], right[i], named[i] = logistic(rows[i]), own[i], names[i]
        return confidence, right, named


def fit_judged(found: Sequence[Case], scored: Scored, margins: dict[str, list[float]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the entry ``judged`` of meta.json, figures across the held authors)."""
    held = Judged(found, scored, margins)
    confidence, right, named = held.crossed()
    every = list(range(len(held.cases)))
    weights = held.fit_combination(every)
    meta = {
        "score_weight": weights[0],
        "margin_weight": weights[1],
        "confidence": fit_logistic(held.rows(weights), held.right(weights), held.weights, JUDGED_FEATURES, CONFIDENCE_PENALTY),
        "threshold": held.threshold(~held.quotes, confidence, right),
        "reply_threshold": held.threshold(held.quotes, confidence, named),  # a reply's quotation shows what was said: less than all of it is no wrong antecedent
    }  # fmt: skip
    some = held.resolvable & ~held.quotes
    figures = {
        "questions": len(held.cases), "resolvable": int(some.sum()), "authors": sorted(set(held.authors.tolist())), "most_wrong": MOST_WRONG,
        "first_names_it": float(held.names_it(weights)[some].mean()), "first_holds_all": float(right[some].mean()),
        "trees_alone": _alone(held, some, (1.0, 0.0)), "judge_alone": _alone(held, some, (0.0, 1.0)), "curve": held.curve(~held.quotes, confidence, right),
        "replies": held.reply_figures(weights, right),
        "reply_curve": held.curve(held.quotes, confidence, right), "reply_curve_names_it": held.curve(held.quotes, confidence, named),
    }  # fmt: skip
    return meta, figures


def _alone(held: Judged, some: NDArray[np.bool_], weights: tuple[float, float]) -> dict[str, float]:
    return {"first_names_it": float(held.names_it(weights)[some].mean()), "first_holds_all": float(held.right(weights)[some].mean())}
