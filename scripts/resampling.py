"""Paired, stratified bootstrap of a gate's figures: every judge is measured on the same resampled items, so that differences carry no noise of the items themselves.

Items are drawn with replacement within each label (Efron & Tibshirani 1993, chapter 8), so that the share of positives stays what it is. All is a function of the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

METRICS = ("precision", "recall", "f1", "auc")
RESAMPLES = 2000
_TOGETHER = 100  # resamples in one matrix, so that 10,000 items take tens of megabytes and not gigabytes

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Counts = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% percentile interval. ``value`` is None where it does not exist: AUC with one label only."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_list(self) -> list[float | None]:
        """(value, low, high), rounded to four places."""
        return [None if number is None else round(number, 4) for number in (self.value, self.low, self.high)]


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of one judge minus that of another. ``low`` and ``high`` bound it from one side with 95% each; ``p`` is the share of resamples in which it is not above 0."""

    value: float
    low: float
    high: float
    p: float

    @property
    def above_noise(self) -> bool:
        """Better, one-sided at 95%."""
        return self.low > 0

    @property
    def below_noise(self) -> bool:
        """Worse, one-sided at 95%."""
        return self.high < 0


def draw_weights(truth: Flags, resamples: int = RESAMPLES, seed: int = 1) -> Counts:
    """How often each item is in each resample. Shape (resamples, items); the sums over each label are those of ``truth``."""
    generator = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(truth)), dtype=np.int32)
    for label in (True, False):
        columns = np.flatnonzero(truth == label)
        if len(columns):
            weights[:, columns] = generator.multinomial(len(columns), np.full(len(columns), 1 / len(columns)), size=resamples)
    return weights


def decision_figures(truth: Flags, predicted: Flags, weights: Counts) -> dict[str, Floats]:
    """Precision, recall and F1 of one judge in each row of ``weights``. Shapes (rows,); a ratio without cases is 0."""
    hits = weights @ (truth & predicted)
    false_alarms = weights @ (~truth & predicted)
    misses = weights @ (truth & ~predicted)
    return {"precision": _ratio(hits, hits + false_alarms), "recall": _ratio(hits, hits + misses), "f1": _ratio(2 * hits, 2 * hits + false_alarms + misses)}


def figures(truth: Flags, predicted: Flags, scores: Floats, weights: Counts) -> dict[str, Floats]:
    """As :func:`decision_figures`, and AUC, which is NaN where one label is missing."""
    return {**decision_figures(truth, predicted, weights), "auc": weighted_auc(truth, scores, weights)}


def whole_set(items: int) -> Counts:
    """The weights of the items as they are: one row of ones."""
    return np.ones((1, items), dtype=np.int32)


def weighted_auc(truth: Flags, scores: Floats, weights: Counts) -> Floats:
    """Area under the ROC curve in each row of ``weights``, ties counted half (Mann and Whitney). Shape (rows,)."""
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)
    positives, negatives = truth[order], ~truth[order]
    result = np.empty(len(weights))
    for begin in range(0, len(weights), _TOGETHER):
        part = weights[begin : begin + _TOGETHER, order]
        yes = np.add.reduceat(part * positives, starts, axis=1)
        no = np.add.reduceat(part * negatives, starts, axis=1)
        below = np.cumsum(no, axis=1) - no
        pairs = yes.sum(axis=1) * no.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            result[begin : begin + _TOGETHER] = (yes * (below + 0.5 * no)).sum(axis=1) / pairs
    return result


def estimate(truth: Flags, predicted: Flags, scores: Floats, weights: Counts) -> tuple[dict[str, Estimate], dict[str, Floats]]:
    """Each figure with its interval, and its values over the resamples for paired comparisons."""
    whole = figures(truth, predicted, scores, whole_set(len(truth)))
    resampled = figures(truth, predicted, scores, weights)
    found = {}
    for name in METRICS:
        value = float(whole[name][0])
        if np.isnan(value):
            found[name] = Estimate(None)
            continue
        low, high = np.percentile(resampled[name], (2.5, 97.5))
        found[name] = Estimate(value, float(low), float(high))
    return found, resampled


def difference(value: float, one: Floats, other: Floats) -> Difference:
    """``one`` minus ``other`` over the same resamples; ``value`` is the difference on the items themselves."""
    changes = one - other
    low, high = np.percentile(changes, (5, 95))
    return Difference(value, float(low), float(high), float(np.mean(changes <= 0)))


def compare_f1(truth: Sequence[bool], one: Sequence[bool], other: Sequence[bool], resamples: int = RESAMPLES, seed: int = 1) -> tuple[Difference, Mapping[str, float]]:
    """F1 of the decisions ``one`` minus F1 of ``other`` on the same items, and both F1 as ``one`` and ``other``."""
    labels, first, second = (np.array(values, dtype=bool) for values in (truth, one, other))
    weights = draw_weights(labels, resamples, seed)
    f1 = {name: float(decision_figures(labels, said, whole_set(len(labels)))["f1"][0]) for name, said in (("one", first), ("other", second))}
    resampled = [decision_figures(labels, said, weights)["f1"] for said in (first, second)]
    return difference(f1["one"] - f1["other"], resampled[0], resampled[1]), f1


def _ratio(part: Counts, whole: Counts) -> Floats:
    result: Floats = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return result
