"""The merger's rule alone: do two successive messages of one sender belong together?"""

from __future__ import annotations

from collections.abc import Sequence

from core.merger import MergeRules
from scripts.evaluation.forms import MergeRecord
from scripts.evaluation.metrics import Confusion
from scripts.evaluation.results import Advance, Result

#: Fixed windows in seconds, with nobody in between: 18 is the article's (arXiv 2405.02817).
FIXED_WINDOWS = (18, 60, 120)


def evaluate_merging(records: Sequence[MergeRecord], rules: MergeRules, advance: Advance) -> Result:
    """Precision, recall and F1 over all pairs, and apart for channels whose times have seconds; ``mean_wait`` in seconds is how long the rule keeps an utterance open."""
    with_seconds = [record for record in records if record.gap_resolution_s == 1]
    advance(len(records))
    baselines = {f"fixed {window} s": _fixed(records, window) for window in FIXED_WINDOWS}
    breakdown: dict[str, dict[str, dict[str, float | int | None]]] = {}
    if with_seconds and len(with_seconds) < len(records):
        groups: dict[str, dict[str, float | int | None]] = {"adaptive": {"n": len(with_seconds), **_adaptive(with_seconds, rules)}}
        groups |= {f"fixed {window} s": {"n": len(with_seconds), **_fixed(with_seconds, window)} for window in FIXED_WINDOWS}
        breakdown["channels with seconds"] = groups
    return Result("merge", len(records), dict(_adaptive(records, rules)), baselines, breakdown)


def _adaptive(records: Sequence[MergeRecord], rules: MergeRules) -> dict[str, float]:
    predicted = [rules.same_utterance(record.prev, record.cur, record.gap_s, record.others_between) for record in records]
    waits = [rules.wait_after(record.prev, record.others_between) for record in records]
    return {**Confusion.of([record.same_utterance for record in records], predicted).as_dict(), "mean_wait": sum(waits) / len(waits)}


def _fixed(records: Sequence[MergeRecord], window: float) -> dict[str, float]:
    predicted = [record.gap_s <= window and record.others_between == 0 for record in records]
    return {**Confusion.of([record.same_utterance for record in records], predicted).as_dict(), "mean_wait": float(window)}
