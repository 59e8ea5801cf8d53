"""Where the labels or the prompt are suspect: items on which the bigger models agree with each other against the label, and the patterns that hold many of them.

A judge is confident in its own measure, as in confident learning (Northcutt et al. 2021): it gives the other label at least the probability that it gives, on average, to the
items that bear that label. So neither a timid nor a biased model needs a threshold of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from scripts.scaling_law.items import Item
from scripts.scaling_law.law import Measured, Series

#: A pattern counts as suspect below this p-value, divided by the number of patterns (Bonferroni).
SIGNIFICANT = 0.05
_LEAST_JUDGES = 2

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Suspect:
    """An item that all judges contradict with confidence. ``doubt``: their mean probability of the other label; ``votes``: the probability of "needs resolution" by judge."""

    item: Item
    doubt: float
    votes: dict[str, float]

    def as_dict(self) -> dict[str, object]:
        """A line of suspects.jsonl."""
        return {
            "id": self.item.id,
            "source": self.item.source,
            "question": self.item.question.text,
            "label": "yes" if self.item.needs_resolution else "no",
            "models_say": "no" if self.item.needs_resolution else "yes",
            "doubt": round(self.doubt, 4),
            "votes": {name: round(value, 4) for name, value in self.votes.items()},
            "patterns": self.item.patterns,
        }


@dataclass(frozen=True, slots=True)
class Pattern:
    """One group of items. ``p``: the probability of so many suspects in it by chance (hypergeometric). ``f1``: of each model, by name."""

    grouping: str
    group: str
    items: int
    suspects: int
    p: float
    suspect: bool
    f1: dict[str, float]

    @property
    def share(self) -> float:
        return self.suspects / self.items


@dataclass(frozen=True, slots=True)
class Doubts:
    """What the judges doubt. ``note``: why there are no judges, "" when there are."""

    judges: tuple[str, ...]
    suspects: tuple[Suspect, ...]
    patterns: tuple[Pattern, ...]
    note: str = ""


def find_doubts(items: Sequence[Item], series: Sequence[Series], wanted: Collection[str] = ()) -> Doubts:
    """Suspects, the most doubtful first, and all patterns, the most suspect first.

    :param wanted: names of the judges; empty: chosen by :func:`choose_judges`. :raises InputError: for a name that no model has.
    """
    models = [model for one in series for model in one.models]
    judges, note = _named(models, wanted) if wanted else choose_judges(series)
    suspects = _suspects(items, judges) if judges else []
    return Doubts(tuple(judge.name for judge in judges), tuple(suspects), tuple(_patterns(items, suspects, models)), note)


def choose_judges(series: Sequence[Series]) -> tuple[list[Measured], str]:
    """The bigger half, at least two, of those models that tell yes from no at all (their AUC's interval lies above 0.5), from the kind that has more of them; with equal
    numbers, the trained. Empty, with the reason, when there are not two.
    """
    able = [[model for model in one.models if (model.estimates["auc"].low or 0.0) > 0.5] for one in series]
    best = max(able, key=lambda models: (len(models), models[0].judgement.spec.trained if models else False), default=[])
    if len(best) < _LEAST_JUDGES:
        return [], "Fewer than two models of one kind tell yes from no better than chance: nobody can judge the labels."
    return best[-max(_LEAST_JUDGES, (len(best) + 1) // 2) :], ""


def _named(models: Sequence[Measured], wanted: Collection[str]) -> tuple[list[Measured], str]:
    unknown = set(wanted) - {model.name for model in models}
    if unknown or len(set(wanted)) < _LEAST_JUDGES:
        problem = f"no model is named {', '.join(sorted(unknown))}" if unknown else "one judge cannot agree with another"
        raise InputError("--judge", problem, f"Name two or more of {', '.join(model.name for model in models)}.")
    return [model for model in models if model.name in set(wanted)], ""


def _suspects(items: Sequence[Item], judges: Sequence[Measured]) -> list[Suspect]:
    truth = np.array([item.needs_resolution for item in items])
    if truth.all() or not truth.any():
        return []
    doubted = np.logical_and.reduce([_confidently_against(judge, truth) for judge in judges])
    found = []
    for index in np.flatnonzero(doubted):
        votes = {judge.name: float(judge.judgement.probabilities[index]) for judge in judges}
        doubt = float(np.mean([1 - vote if truth[index] else vote for vote in votes.values()]))
        found.append(Suspect(items[int(index)], doubt, votes))
    return sorted(found, key=lambda suspect: -suspect.doubt)


def _confidently_against(judge: Measured, truth: Flags) -> Flags:
    """The items that this judge decides against their labels, and gives the other label at least its mean probability on items that bear it. Shape (n,)."""
    yes = judge.judgement.probabilities
    usual_yes, usual_no = float(yes[truth].mean()), float((1 - yes)[~truth].mean())
    sure = np.where(truth, 1 - yes >= usual_no, yes >= usual_yes)
    result: Flags = sure & (judge.judgement.predicted != truth)
    return result


def _patterns(items: Sequence[Item], suspects: Sequence[Suspect], models: Sequence[Measured]) -> list[Pattern]:
    from scipy.stats import hypergeom

    groups: dict[tuple[str, str], list[int]] = {}
    for index, item in enumerate(items):
        for grouping, group in item.patterns.items():
            groups.setdefault((grouping, group), []).append(index)
    of_one_group = {grouping for grouping, _ in groups if sum(other == grouping for other, _ in groups) == 1}
    shown = {key: indices for key, indices in groups.items() if key[0] not in of_one_group}
    doubted = {id(suspect.item) for suspect in suspects}
    flags = np.array([id(item) in doubted for item in items])
    truth = np.array([item.needs_resolution for item in items])
    found = []
    for (grouping, group), indices in shown.items():
        inside = int(flags[indices].sum())
        p = float(hypergeom.sf(inside - 1, len(items), int(flags.sum()), len(indices)))
        f1 = {model.name: _f1(truth[indices], model.judgement.predicted[indices]) for model in models}
        found.append(Pattern(grouping, group, len(indices), inside, p, p < SIGNIFICANT / len(shown), f1))
    return sorted(found, key=lambda pattern: (pattern.p, pattern.grouping, pattern.group))


def _f1(truth: Flags, predicted: Flags) -> float:
    hits, said, there = int((truth & predicted).sum()), int(predicted.sum()), int(truth.sum())
    return 2 * hits / (said + there) if said + there else 0.0
