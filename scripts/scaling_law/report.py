"""A scaling run as words, tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.reporting.page import ReportPage, ReportSection, TableView
from scripts.resampling import METRICS
from scripts.scaling_law.items import Item
from scripts.scaling_law.law import SIGNIFICANT, Measured, Series, Trend
from scripts.scaling_law.plots import TITLES, plot_law, plot_patterns
from scripts.scaling_law.specs import Axis, axis_label
from scripts.scaling_law.suspects import Doubts, Pattern, Suspect

_SUSPECTS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class ScalingResult:
    """All of a run. ``baselines``: judges without a model -> their figures."""

    axis: Axis
    items: Sequence[Item]
    series: Sequence[Series]
    doubts: Doubts
    baselines: Mapping[str, Mapping[str, float]]
    resamples: int
    seed: int

    @property
    def models(self) -> list[Measured]:
        """All models, smallest first."""
        return sorted((model for one in self.series for model in one.models), key=lambda model: model.size)


def as_json(result: ScalingResult) -> dict[str, Any]:
    """All figures: what scaling.json holds. An estimate is [value, low, high] of its 95% interval."""
    truth = [item.needs_resolution for item in result.items]
    return {
        "axis": str(result.axis),
        "items": {"n": len(truth), "yes": sum(truth), "no": len(truth) - sum(truth)},
        "bootstrap": {"resamples": result.resamples, "seed": result.seed},
        "models": [_model_json(model) for model in result.models],
        "series": [_series_json(one) for one in result.series],
        "baselines": result.baselines,
        "judges": list(result.doubts.judges),
        "suspects": len(result.doubts.suspects),
        "patterns": [
            {"grouping": p.grouping, "group": p.group, "items": p.items, "suspects": p.suspects, "p": round(p.p, 5), "suspect": p.suspect, "f1": _rounded(p.f1)}
            for p in result.doubts.patterns
        ],
        "verdict": verdict(result)[0],
    }


def _model_json(model: Measured) -> dict[str, Any]:
    one = model.judgement
    named = {"name": model.name, "size": model.size, "trained": one.spec.trained, "prompt": one.prompt, "threshold": one.threshold, "threshold_from": one.threshold_from}
    return {**named, **{metric: model.estimates[metric].as_list() for metric in METRICS}}


def _series_json(series: Series) -> dict[str, Any]:
    return {
        "trained": series.trained,
        "models": [model.name for model in series.models],
        "trends": [
            {"metric": t.metric, "tau": t.tau, "p": t.p, "tau_low": t.low, "tau_high": t.high, "least_p": t.least_p, "isotonic_fit": [round(v, 4) for v in t.fit]}
            for t in series.trends
        ],
        "violations": [
            {"metric": v.metric, "smaller": v.smaller, "bigger": v.bigger, "change": round(v.change.value, 4), "at_most": round(v.change.high, 4)} for v in series.violations
        ],
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def verdict(result: ScalingResult) -> tuple[list[str], bool | None]:
    """What the run says of the labels, in sentences, and whether it is good news; None: it cannot tell."""
    grower = "size" if result.axis is Axis.SIZE else "training data"
    sentences = [_growth(one, grower) for one in result.series]
    grown = [one.grows for one in result.series]
    if any(one is False for one in grown):
        return [*sentences, "Labels, definition or prompt are suspect: look at the patterns and suspects below, mend, and run again."], False
    if any(one.grows and (one.trend("precision").p or 1.0) < SIGNIFICANT for one in result.series):
        return [*sentences, "The labels pass the check."], True
    return [*sentences, "Nothing here speaks against the labels, but so few models prove nothing: add more of one family."], None


def _growth(series: Series, grower: str) -> str:
    """One sentence on the precision of one kind of models."""
    kind, trend = "Trained" if series.trained else "Untrained", series.trend("precision")
    if trend.tau is None or trend.p is None or trend.least_p is None:
        return f"{kind} models: fewer than three different places on the axis, which says nothing of growth."
    steps = "; ".join(f"{v.smaller} to {v.bigger} ({TITLES[v.metric]} {v.change.value:+.3f})" for v in series.violations)
    if trend.p < SIGNIFICANT:
        shown = "beyond chance"
    else:
        shown = f"{len(series.models)} models cannot give a p below {trend.least_p:.2g}" if trend.least_p >= SIGNIFICANT else "not beyond chance"
    grows = f"{kind} models: precision {'grows' if trend.tau > 0 else 'does not grow'} with {grower} (Kendall tau {trend.tau:+.2f}, p {trend.p:.3f}: {shown})"
    return f"{grows}, but falls beyond noise from {steps}." if steps else f"{grows}, and no step down is larger than noise."


def make_page(result: ScalingResult) -> ReportPage:
    """The report. Pictures are drawn here."""
    truth = [item.needs_resolution for item in result.items]
    sentences, good = verdict(result)
    files = ", ".join(sorted({item.source for item in result.items}))
    subtitle = (
        f"{len(truth)} labelled questions ({sum(truth)} need resolution, {len(truth) - sum(truth)} stand alone) from {files}; bootstrap of {result.resamples}, seed {result.seed}"
    )
    sections = [
        ReportSection("What it says · 结论", sentences, good=good),
        ReportSection(
            "Quality as models grow · 规模曲线",
            ["Green before training, blue after, with 95% intervals (stratified bootstrap over the items); dashed: the isotonic fit, the best curve that never falls."],
            [plot_law(result.series, result.axis)],
            [_models_table(result), _trends_table(result)],
        ),
        _doubts_section(result),
    ]
    return ReportPage("Scaling-law check · 标注质量检查", subtitle, sections)


def _models_table(result: ScalingResult) -> TableView:
    rows = [
        [
            model.name,
            axis_label(model.size, result.axis),
            "after" if model.judgement.spec.trained else "before",
            *(_estimate(model, metric) for metric in METRICS),
            f"{model.judgement.threshold:.3g} ({model.judgement.threshold_from})",
            model.judgement.prompt,
        ]
        for model in result.models
    ]
    rows += [[name, "", "", *(f"{values[metric]:.3f}" if metric in values else "" for metric in METRICS), "", ""] for name, values in result.baselines.items()]
    caption = "The language model alone judges, by the margin between its answer tokens; the encoder head takes no part."
    return TableView(["model", "size" if result.axis is Axis.SIZE else "data", "training", *(TITLES[metric] for metric in METRICS), "threshold", "prompt"], rows, caption)


def _estimate(model: Measured, metric: str) -> str:
    found = model.estimates[metric]
    if found.value is None or found.low is None or found.high is None:
        return "-"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _trends_table(result: ScalingResult) -> TableView:
    rows = [["after" if one.trained else "before", TITLES[trend.metric], *_trend_cells(trend)] for one in result.series for trend in one.trends]
    caption = "Kendall's tau with size; its interval resamples the items; p is two-sided, and no smaller than the last column with so few models."
    return TableView(["training", "figure", "tau", "95% interval", "p", "smallest p possible"], rows, caption)


def _trend_cells(trend: Trend) -> list[str]:
    if trend.tau is None:
        return ["too few sizes", "", "", ""]
    return [f"{trend.tau:+.2f}", f"{trend.low:+.2f} to {trend.high:+.2f}", f"{trend.p:.3f}", f"{trend.least_p:.2g}"]


def _doubts_section(result: ScalingResult) -> ReportSection:
    doubts = result.doubts
    title = "Where labels or prompt are suspect · 可疑标注"
    if doubts.note:
        return ReportSection(title, [doubts.note])
    total, found = len(result.items), len(doubts.suspects)
    paragraphs = [
        f"{found} of {total} labels ({found / total:.1%}) are contradicted by all of {', '.join(doubts.judges)}, each with at least its usual confidence.",
        "A pattern that holds more of them than chance (marked) points at the definition or the prompt; single ones at a slip of the labeller. All are in suspects.jsonl.",
    ]
    picture = plot_patterns(doubts)
    return ReportSection(title, paragraphs, [picture] if picture else [], [_patterns_table(result), _suspects_table(doubts.suspects, doubts.judges)])


def _patterns_table(result: ScalingResult) -> TableView:
    models = [model.name for model in result.models]
    patterns = result.doubts.patterns
    rows = [_pattern_row(pattern, models) for pattern in patterns]
    marked = frozenset(number for number, pattern in enumerate(patterns) if pattern.suspect)
    return TableView(["pattern", "", "items", "doubted", "share", "p", *(f"F1 {name}" for name in models)], rows, "By pattern, the most suspect first", marked)


def _pattern_row(pattern: Pattern, models: Sequence[str]) -> list[str]:
    return [
        pattern.grouping,
        pattern.group,
        str(pattern.items),
        str(pattern.suspects),
        f"{pattern.share:.1%}",
        f"{pattern.p:.2g}",
        *(f"{pattern.f1[name]:.3f}" for name in models),
    ]


def _suspects_table(suspects: Sequence[Suspect], judges: Sequence[str]) -> TableView:
    rows = [
        ["yes" if one.item.needs_resolution else "no", one.item.question.text, f"{one.doubt:.2f}", *(f"{one.votes[name]:.2f}" for name in judges), one.item.id]
        for one in suspects[:_SUSPECTS_SHOWN]
    ]
    more = f"; the first {_SUSPECTS_SHOWN} of {len(suspects)}" if len(suspects) > _SUSPECTS_SHOWN else ""
    return TableView(["label", "question", "doubt", *(f"P(yes) {name}" for name in judges), "id"], rows, f"The most doubtful first{more}")
