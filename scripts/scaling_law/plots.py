"""The pictures of a scaling report: quality over size or data, and the share of suspect labels by pattern."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scripts.reporting.figures import AFTER, BEFORE, as_data_url, drawable, new_figure
from scripts.reporting.page import Picture
from scripts.resampling import METRICS
from scripts.scaling_law.law import Series
from scripts.scaling_law.specs import Axis, axis_label
from scripts.scaling_law.suspects import Doubts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"precision": "precision", "recall": "recall", "f1": "F1", "auc": "AUC"}
_PATTERNS_SHOWN = 14


def plot_law(series: Sequence[Series], axis: Axis) -> Picture:
    """Each figure with its 95% interval over the size; dashed: the isotonic fit."""
    figure, all_axes = new_figure(columns=2, rows=2)
    names = dict(zip([model.name for one in series for model in one.models], drawable([model.name for one in series for model in one.models]), strict=True))
    for axes, metric in zip(all_axes, METRICS, strict=True):
        for one in series:
            _plot_series(axes, one, metric, names)
        _dress(axes, series, metric, axis)
    all_axes[0].legend(loc="best", fontsize=8)
    shown = "; ".join(f"{model.name}: F1 {model.estimates['f1'].value:.3f}" for one in series for model in one.models)
    return Picture(as_data_url(figure), f"Precision, recall, F1 and AUC over {'size' if axis is Axis.SIZE else 'training data'}. {shown}")


def _plot_series(axes: Axes, series: Series, metric: str, names: dict[str, str]) -> None:
    points = [(model.size, model.estimates[metric], names[model.name]) for model in series.models if model.estimates[metric].value is not None]
    if not points:
        return
    colour, label = (AFTER, "after training") if series.trained else (BEFORE, "before training")
    sizes = [size for size, _, _ in points]
    values = [estimate.value or 0.0 for _, estimate, _ in points]
    errors = [
        [value - (estimate.low or 0.0) for value, (_, estimate, _) in zip(values, points, strict=True)],
        [(estimate.high or 0.0) - value for value, (_, estimate, _) in zip(values, points, strict=True)],
    ]
    axes.errorbar(sizes, values, yerr=[[max(0.0, error) for error in side] for side in errors], color=colour, marker="o", markersize=5, capsize=3, linewidth=1.4, label=label)
    axes.plot(sizes, series.trend(metric).fit, color=colour, linestyle="--", linewidth=0.9, alpha=0.6)
    for size, value, (_, _, name) in zip(sizes, values, points, strict=True):
        axes.annotate(name, (size, value), textcoords="offset points", xytext=(4, 5), fontsize=7, color=colour)


def _dress(axes: Axes, series: Sequence[Series], metric: str, axis: Axis) -> None:
    sizes = sorted({model.size for one in series for model in one.models})
    above = [size for size in sizes if size > 0]
    if len(above) > 1:
        # From zero to the smallest share the axis is linear: an untrained model has its place on it.
        axes.set_xscale("symlog", linthresh=above[0]) if sizes[0] == 0 else axes.set_xscale("log")
    axes.set_xticks(sizes, [axis_label(size, axis) for size in sizes], fontsize=8)
    axes.minorticks_off()
    axes.set_title(TITLES[metric], fontsize=10)
    axes.set_xlabel("parameters" if axis is Axis.SIZE else "training data", fontsize=8)
    axes.grid(alpha=0.25)


def plot_patterns(doubts: Doubts) -> Picture | None:
    """The share of suspect items in each pattern that has one, the highest first; None without suspects."""
    found = sorted((pattern for pattern in doubts.patterns if pattern.suspects), key=lambda pattern: pattern.share)[-_PATTERNS_SHOWN:]
    if not found:
        return None
    figure, (axes,) = new_figure(width=7.2, height=0.9 + 0.3 * len(found))
    labels = drawable([f"{pattern.grouping}: {pattern.group} ({pattern.suspects}/{pattern.items})" for pattern in found])
    axes.barh(labels, [pattern.share for pattern in found], color=["#b4301f" if pattern.suspect else "#8a8f98" for pattern in found])
    axes.set_xlabel("share of items that the judges doubt (red: more than chance)", fontsize=8)
    axes.tick_params(labelsize=8)
    return Picture(as_data_url(figure), "; ".join(f"{pattern.grouping} {pattern.group}: {pattern.share:.1%}" for pattern in reversed(found)))
