"""Does quality grow with size? Figures with intervals, Kendall's tau, and steps down that noise does not explain.

The check of HuixiangDou-CR (Kong 2024): labels are believed only when the precision of ever larger models of one family grows with their size on them. Where it does not, the
prompt or the definition is unclear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from scripts.resampling import METRICS, Difference, Estimate, difference, draw_weights, estimate
from scripts.scaling_law.judging import Judgement

#: The figures whose growth is tested; the others are shown.
TESTED = ("precision", "f1")
#: From this p-value on, growth counts as shown.
SIGNIFICANT = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """One model's figures, and their values over the common resamples."""

    judgement: Judgement
    estimates: dict[str, Estimate]
    resampled: dict[str, Floats]

    @property
    def size(self) -> float:
        return self.judgement.spec.size

    @property
    def name(self) -> str:
        return self.judgement.spec.name


@dataclass(frozen=True, slots=True)
class Violation:
    """A step to the next size at which a figure falls by more than noise explains (paired bootstrap, one-sided 95%)."""

    metric: str
    smaller: str
    bigger: str
    change: Difference


@dataclass(frozen=True, slots=True)
class Trend:
    """Growth of one figure over the sizes. ``tau`` and ``p`` (two-sided) are None below three sizes; ``low`` and ``high`` bound tau over resampled items with 95%.

    ``least_p``: the smallest p that so many models can give, 2/n!. ``fit``: the isotonic regression of the figure, one value for each model.
    """

    metric: str
    tau: float | None
    p: float | None
    low: float | None
    high: float | None
    least_p: float | None
    fit: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """Models of one kind, smallest first: all untrained, or all trained."""

    trained: bool
    models: tuple[Measured, ...]
    trends: tuple[Trend, ...]
    violations: tuple[Violation, ...]

    def trend(self, metric: str) -> Trend:
        return next(trend for trend in self.trends if trend.metric == metric)

    @property
    def grows(self) -> bool | None:
        """Whether precision grows with size; None where there are too few sizes to tell."""
        trend = self.trend("precision")
        if trend.tau is None or trend.p is None:
            return None
        return trend.tau > 0 and not any(violation.metric == "precision" for violation in self.violations)


def measure(judgements: Sequence[Judgement], truth: Sequence[bool], resamples: int, seed: int) -> list[Measured]:
    """Figures of all models on the same items and the same resamples."""
    labels = np.array(truth, dtype=bool)
    weights = draw_weights(labels, resamples, seed)
    return [Measured(one, *estimate(labels, one.predicted, one.margins, weights)) for one in judgements]


def make_series(measured: Sequence[Measured]) -> list[Series]:
    """The untrained and the trained models, each with its trends. ``measured`` in order of size; a kind without models has no series."""
    found = []
    for trained in (False, True):
        models = tuple(one for one in measured if one.judgement.spec.trained == trained)
        if models:
            trends = tuple(_trend(models, metric) for metric in METRICS if models[0].estimates[metric].value is not None)
            found.append(Series(trained, models, trends, _violations(models)))
    return found


def _trend(models: Sequence[Measured], metric: str) -> Trend:
    from scipy.optimize import isotonic_regression
    from scipy.stats import kendalltau

    sizes = np.array([one.size for one in models])
    values = np.array([_value(one, metric) for one in models])
    fit = tuple(float(value) for value in isotonic_regression(values).x)
    if len(set(sizes.tolist())) < 3:
        return Trend(metric, None, None, None, None, None, fit)
    if len(set(values.tolist())) == 1:
        return Trend(metric, 0.0, 1.0, 0.0, 0.0, _least_p(len(models)), fit)  # tau is not defined where nothing moves: nothing grows
    tau, p = kendalltau(sizes, values)
    low, high = np.percentile(_resampled_tau(sizes, np.stack([one.resampled[metric] for one in models])), (2.5, 97.5))
    return Trend(metric, float(tau), float(p), float(low), float(high), _least_p(len(models)), fit)


def _resampled_tau(sizes: Floats, values: Floats) -> Floats:
    """Kendall's tau-b of ``sizes`` (models,) with each column of ``values`` (models, resamples). Shape (resamples,); 0 where all values are equal."""
    first, second = np.triu_indices(len(sizes), 1)
    by_size = np.sign(sizes[second] - sizes[first])[:, None]
    by_value = np.sign(values[second] - values[first])
    whole = np.sqrt((by_size**2).sum() * (by_value**2).sum(axis=0))
    result: Floats = np.divide((by_size * by_value).sum(axis=0), whole, out=np.zeros(values.shape[1]), where=whole > 0)
    return result


def _least_p(models: int) -> float:
    return 2.0 / float(np.prod(np.arange(1, models + 1)))


def _violations(models: Sequence[Measured]) -> tuple[Violation, ...]:
    found = []
    for smaller, bigger in _neighbours(models):
        for metric in TESTED:
            change = difference(_value(bigger, metric) - _value(smaller, metric), bigger.resampled[metric], smaller.resampled[metric])
            if change.below_noise:
                found.append(Violation(metric, smaller.name, bigger.name, change))
    return tuple(found)


def _neighbours(models: Sequence[Measured]) -> list[tuple[Measured, Measured]]:
    """Each model with each of the next larger size. Models of one size (quantisations) need not be in any order."""
    sizes = sorted({one.size for one in models})
    return [(smaller, bigger) for lower, upper in pairwise(sizes) for smaller in models if smaller.size == lower for bigger in models if bigger.size == upper]


def _value(one: Measured, metric: str) -> float:
    value = one.estimates[metric].value
    return float("nan") if value is None else value
