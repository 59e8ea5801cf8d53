"""How scores of the trees and margins of the judge become one ranking and one confidence: fitted on authors that neither saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.antecedent_features import Array
from core.ranker import JUDGED_FEATURES, Candidates, JudgedModel, Logistic, choice, judged_features, softmax
from scripts.training.judge_margins import Margins
from scripts.training.ranker import CONFIDENCE_PENALTY, MOST_WRONG, Scored, case_weights, choose_threshold, curve, fit_logistic
from scripts.training.ranker_data import REPLY, Case, author, both_right, holds_all

#: (weight of the tree score, weight of the margin, bias of a pair)
Weights = tuple[float, float, float]
_NO_LOGISTIC = Logistic(np.zeros(0), np.zeros(0), np.zeros(0), 0.0)


class Judged:
    """Held-out questions with candidates, margins of their shortlists and pairs, and what is right."""

    def __init__(self, found: Sequence[Case], scored: Scored, margins: dict[str, Margins]) -> None:
        chosen = [i for i, case in enumerate(found) if case.id in margins]
        self.cases = [found[i] for i in chosen]
        self.margins = [np.array(margins[case.id]["terms"]) for case in self.cases]
        self.pair_margins = [np.array(margins[case.id]["pairs"]) for case in self.cases]
        self.candidates = [Candidates(found[i].scene, tuple(found[i].terms), scored.rows[i], scored.scores[i], scored.line_scores[i]) for i in chosen]
        self.pairs = [found_.pairs(margin) for found_, margin in zip(self.candidates, self.margins, strict=True)]
        self.plain = scored.confidence[chosen]
        self.scores = [found_.scores[found_.shortlist] for found_ in self.candidates]
        self.whole = [np.array([holds_all(case, case.terms[t]) for t in found_.shortlist]) for case, found_ in zip(self.cases, self.candidates, strict=True)]
        self.both = [
            np.array([both_right(case, case.terms[found_.shortlist[a]], case.terms[found_.shortlist[b]]) for a, b in together], dtype=bool)
            for case, found_, together in zip(self.cases, self.candidates, self.pairs, strict=True)
        ]
        self.named = [case.grades[found_.shortlist] >= 1 for case, found_ in zip(self.cases, self.candidates, strict=True)]
        self.authors = np.array([author(case.id) for case in self.cases])
        self.weights = case_weights(self.cases)
        self.quotes = np.array([bool(case.scene.quote) for case in self.cases])
        self.resolvable = np.array([case.resolvable for case in self.cases])

    def fit_combination(self, rows: Sequence[int]) -> Weights:
        """Maximum likelihood of a choice that holds all, or that names it where none holds all."""
        from scipy.optimize import minimize

        wanted = [np.concatenate([self.whole[i], self.both[i]]) for i in range(len(self.cases))]
        wanted = [w if w.any() else np.concatenate([self.named[i], np.zeros(len(self.both[i]), dtype=bool)]) for i, w in enumerate(wanted)]
        known = [i for i in rows if wanted[i].any()]

        def cost(values: Array) -> float:
            weights = (float(values[0]), float(values[1]), float(values[2]))
            total = sum(-float(np.log(softmax(np.concatenate(self.combined(i, weights)))[wanted[i]].sum() + 1e-12)) for i in known)
            return total / max(1, len(known)) + 0.001 * float(values @ values)

        best = minimize(cost, np.array([1.0, 0.5, -1.0]), method="Nelder-Mead").x
        return float(best[0]), float(best[1]), float(best[2])

    def combined(self, i: int, weights: Weights) -> tuple[Array, Array]:
        """Combined scores of the shortlist and of its pairs."""
        model = JudgedModel(*weights, _NO_LOGISTIC, 0.0, 0.0)
        return model.combine(self.scores[i], self.margins[i]), model.combine_pairs(self.scores[i], self.pairs[i], self.pair_margins[i])

    def first(self, i: int, weights: Weights) -> tuple[int, ...]:
        """Positions in the shortlist of what is chosen."""
        combined, paired = self.combined(i, weights)
        return choice(combined, self.pairs[i], paired)

    def right(self, weights: Weights) -> NDArray[np.bool_]:
        """Whether the choice holds every name that gold adds."""
        return np.array([self._whole(i, self.first(i, weights)) for i in range(len(self.cases))])

    def _whole(self, i: int, chosen: tuple[int, ...]) -> bool:
        if len(chosen) == 1:
            return bool(self.whole[i][chosen[0]])
        return bool(self.both[i][[set(pair) for pair in self.pairs[i]].index(set(chosen))])

    def names_it(self, weights: Weights) -> NDArray[np.bool_]:
        """Whether a term of the choice is the right thing, or a part of it."""
        return np.array([bool(self.named[i][list(self.first(i, weights))].any()) for i in range(len(self.cases))])

    def rows(self, weights: Weights) -> Array:
        return np.array([self._row(i, *self.combined(i, weights)) for i in range(len(self.cases))])

    def _row(self, i: int, combined: Array, paired: Array) -> Array:
        return judged_features(self.candidates[i], combined, self.margins[i], paired, float(self.plain[i]))

    def threshold(self, some: NDArray[np.bool_], confidence: Array, right: NDArray[np.bool_]) -> float:
        """The lowest that leaves at most MOST_WRONG wrong among ``some``; a thousand questions are too few for a bound on a few in a hundred."""
        return choose_threshold(confidence[some], right[some], self.weights[some], errors=0.0) if some.any() else 1.01

    def curve(self, some: NDArray[np.bool_], confidence: Array, right: NDArray[np.bool_]) -> list[dict[str, float]]:
        chosen = np.flatnonzero(some).tolist()
        return curve([self.cases[i] for i in chosen], confidence[some], right[some]) if chosen else []

    def reply_figures(self, weights: Weights, right: NDArray[np.bool_]) -> dict[str, float]:
        """Of the questions that quote a message, those whose reply was put in (REPLY) and those of the windows themselves."""
        named = self.names_it(weights)
        figures: dict[str, float] = {}
        put_in = np.array([case.id.endswith(REPLY) for case in self.cases])
        for name, some in (("put_in", put_in & self.resolvable), ("written", self.quotes & ~put_in & self.resolvable)):
            if some.any():
                figures |= {name: int(some.sum()), f"{name}_names_it": float(named[some].mean()), f"{name}_holds_all": float(right[some].mean())}
        return figures

    def crossed(self) -> tuple[Array, NDArray[np.bool_]]:
        """(confidence, right) of every question, each from models that never saw its author."""
        confidence, right = np.zeros(len(self.cases)), np.zeros(len(self.cases), dtype=bool)
        for name in sorted(set(self.authors)):
            test = self.authors == name
            train = np.flatnonzero(~test)
            weights = self.fit_combination(train.tolist())
            rows, own = self.rows(weights), self.right(weights)
            logistic = Logistic.of(fit_logistic(rows[train], own[train], self.weights[train], JUDGED_FEATURES, CONFIDENCE_PENALTY))
            for i in np.flatnonzero(test).tolist():
                confidence[i], right[i] = logistic(rows[i]), own[i]
        return confidence, right


def fit_judged(found: Sequence[Case], scored: Scored, margins: dict[str, Margins]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the entry ``judged`` of meta.json, figures across the held authors)."""
    held = Judged(found, scored, margins)
    confidence, right = held.crossed()
    weights = held.fit_combination(range(len(held.cases)))
    meta = {
        "score_weight": weights[0], "margin_weight": weights[1], "pair_bias": weights[2],
        "confidence": fit_logistic(held.rows(weights), held.right(weights), held.weights, JUDGED_FEATURES, CONFIDENCE_PENALTY),
        "threshold": held.threshold(~held.quotes, confidence, right), "reply_threshold": held.threshold(held.quotes, confidence, right),
    }  # fmt: skip
    some = held.resolvable & ~held.quotes
    singles = (weights[0], weights[1], -np.inf)
    figures = {
        "questions": len(held.cases), "resolvable": int(some.sum()), "authors": sorted(set(held.authors.tolist())), "most_wrong": MOST_WRONG,
        "first_names_it": float(held.names_it(weights)[some].mean()), "first_holds_all": float(right[some].mean()),
        "pairs_chosen": float(np.mean([len(held.first(i, weights)) == 2 for i in np.flatnonzero(some).tolist()])), "without_pairs": _alone(held, some, singles),
        "trees_alone": _alone(held, some, (1.0, 0.0, -np.inf)), "judge_alone": _alone(held, some, (0.0, 1.0, -np.inf)),
        "curve": held.curve(~held.quotes, confidence, right), "reply_curve": held.curve(held.quotes, confidence, right), "replies": held.reply_figures(weights, right),
    }  # fmt: skip
    return meta, figures


def _alone(held: Judged, some: NDArray[np.bool_], weights: Weights) -> dict[str, float]:
    return {"first_names_it": float(held.names_it(weights)[some].mean()), "first_holds_all": float(held.right(weights)[some].mean())}
