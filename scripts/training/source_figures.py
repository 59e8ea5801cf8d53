"""How often trees, pointer and reader name the right thing: each alone, and added up with weights that never saw the question's author."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from core.antecedent_features import Array
from core.combining import softmax
from scripts.training.ranker_data import Case, author


def first_right(found: Sequence[Case], trees: Sequence[Array], said: Mapping[str, Mapping[str, Array]]) -> dict[str, float]:
    """Share of the resolvable questions whose first term is right, by sources ("trees+pointer"), those that quote a message apart ("reply: trees").

    ``said``: numbers of all terms by source and id of the case; only questions that all sources answered count.
    """
    rows = [i for i, case in enumerate(found) if case.resolvable and all(case.id in answers for answers in said.values())]
    cases = [found[i] for i in rows]
    heard = {"trees": [trees[i] for i in rows], **{name: [answers[case.id] for case in cases] for name, answers in said.items()}}
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
