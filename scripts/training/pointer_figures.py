"""How often trees, pointer and judge name the right thing: each alone, and added up with weights that never saw the question's author."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from core.antecedent_features import Array
from core.combining import softmax
from scripts.training.ranker_data import Case, author


def first_right(found: Sequence[Case], trees: Sequence[Array], pointer: Mapping[str, Array], judge: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Share of the resolvable questions whose first term is right, by sources ("trees+pointer"), those that quote a message apart ("reply: trees").

    ``judge``: margins by id and index of the term; where there are any, only questions that it answered count.
    """
    rows = [i for i, case in enumerate(found) if case.resolvable and case.id in pointer and (not judge or case.id in judge)]
    cases, scores = [found[i] for i in rows], [trees[i] for i in rows]
    heard = {"trees": scores, "pointer": [pointer[case.id] for case in cases]}
    if judge:
        heard["judge"] = [_spread(score, judge[case.id]) for case, score in zip(cases, scores, strict=True)]
    quotes = np.array([bool(case.scene.quote) for case in cases])
    figures: dict[str, float] = {"questions": int((~quotes).sum()), "replies": int(quotes.sum())}
    for count in range(1, len(heard) + 1):
        for names in combinations(heard, count):
            right = _crossed(cases, [heard[name] for name in names])
            for start, some in (("", ~quotes), ("reply: ", quotes)):
                if some.any():
                    figures[start + "+".join(names)] = float(right[some].mean())
    return figures


def _crossed(cases: Sequence[Case], sources: Sequence[Sequence[Array]]) -> Array:
    """Whether the first term of each case is right, with weights from the other authors."""
    authors = np.array([author(case.id) for case in cases])
    right = np.zeros(len(cases), dtype=bool)
    for name in sorted(set(authors.tolist())):
        weights = _weights(cases, sources, np.flatnonzero(authors != name).tolist()) if len(sources) > 1 else np.ones(1)
        for i in np.flatnonzero(authors == name).tolist():
            right[i] = cases[i].grades[int(np.argmax(_added(sources, weights, i)))] >= 1
    return right


def _weights(cases: Sequence[Case], sources: Sequence[Sequence[Array]], rows: Sequence[int]) -> Array:
    """Maximum likelihood of a right candidate."""
    from scipy.optimize import minimize

    known = [(i, cases[i].grades >= 1) for i in rows if cases[i].grades.any()]

    def cost(weights: Array) -> float:
        total = -sum(float(np.log(softmax(_added(sources, weights, i))[right].sum() + 1e-12)) for i, right in known)
        return total / max(1, len(known)) + 0.001 * float(weights @ weights)

    return np.asarray(minimize(cost, np.full(len(sources), 0.7), method="Nelder-Mead", options={"maxiter": 120}).x)


def _added(sources: Sequence[Sequence[Array]], weights: Array, i: int) -> Array:
    return np.asarray(sum(weight * source[i] for weight, source in zip(weights, sources, strict=True)))


def _spread(scores: Array, margins: Mapping[int, float]) -> Array:
    """Margins of the terms that were judged as numbers of all terms: the others get one less than the least."""
    spread = np.full(len(scores), min(margins.values()) - 1.0)
    spread[list(margins)] = list(margins.values())
    return spread
