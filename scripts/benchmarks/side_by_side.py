"""The ways of :mod:`scripts.benchmarks.ways` on the same questions in one run, and the curve between encoder and language model. Times in milliseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from core.head import GateCalibration
from scripts.benchmarks.examples import Example, Sample
from scripts.benchmarks.ways import Way, Ways
from scripts.evaluation.metrics import Confusion
from scripts.evaluation.windows import Outcome

#: Steps of the curve from "the head settles everything" to "the language model judges everything".
CURVE_STEPS = 10


@dataclass(slots=True)
class _Tally:
    """What one way did. Times and tokens are of all questions, in order."""

    predicted: list[bool] = field(default_factory=list)
    gate_ms: list[float] = field(default_factory=list)
    rewrite_ms: list[float] = field(default_factory=list)
    outcomes: list[Outcome | None] = field(default_factory=list)
    tokens: int = 0


async def side_by_side(ways: Ways, sample: Sample, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Every way on every question, the ways in turn for each question, so that the machine's noise meets all alike. The last question warms up first."""
    tallies = {way.name: _Tally() for way in ways.all}
    head: list[tuple[float, float]] = []
    for way in ways.all:
        await _ask(way, sample.examples[-1], _Tally())
    ways.alone.logits.clear()
    ways.cascade.stages.clear()
    ways.published.unreadable = 0
    for example in sample.examples:
        for way in ways.all:
            await _ask(way, example, tallies[way.name])
        if ways.head is not None:
            started = time.perf_counter()
            (logit,) = await ways.worker.run(ways.head.probability_logit, [example.question])
            head.append((logit, _since(started)))
        advance()
    truth = [example.needs for example in sample.examples]
    figures = {way.name: _figures(way, tallies[way.name], truth, sample.messages) for way in ways.all}
    figures[ways.published.name]["unreadable_answers"] = ways.published.unreadable
    result: dict[str, Any] = {
        "sample": {"files": list(sample.files), "questions": len(truth), "need_resolution": sum(truth), "messages": sample.messages, "trained_on": sample.shipped},
        "model": ways.model,
        "ways": figures,
        "ratios": _ratios(ways, figures, tallies),
        "settled_by": dict(ways.cascade.stages),
    }
    if ways.calibration is not None:
        result["curve"] = cascade_curve(ways.calibration, sample.examples, head, ways.alone.logits, tallies[ways.alone.name].gate_ms)
    return result


async def _ask(way: Way, example: Example, tally: _Tally) -> None:
    tokens, started = way.tokens, time.perf_counter()
    needs = await way.judge(example.question)
    tally.gate_ms.append(_since(started) if way.gates else 0.0)
    rewrite, started = None, time.perf_counter()
    if needs and way.rewrites:
        rewrite = await way.rewrite(example.question)
        tally.rewrite_ms.append(_since(started))
    tally.tokens += way.tokens - tokens
    tally.predicted.append(needs if way.gates else rewrite is not None and rewrite.strip() != example.question.text.strip())
    tally.outcomes.append(example.outcome(rewrite))


def _figures(way: Way, tally: _Tally, truth: Sequence[bool], messages: int) -> dict[str, Any]:
    count = len(truth)
    total = sum(tally.gate_ms) + sum(tally.rewrite_ms)
    figures: dict[str, Any] = {
        "gate_ms": statistics.mean(tally.gate_ms) if way.gates else None,
        "gate_ms_median": statistics.median(tally.gate_ms) if way.gates else None,
        "rewrite_ms": statistics.mean(tally.rewrite_ms) if tally.rewrite_ms else None,
        "rewrite_ms_p95": _p95(tally.rewrite_ms),
        "ms_per_question": total / count,
        "ms_per_message": total / messages if messages else None,
        "tokens_per_question": tally.tokens / count,
        **Confusion.of(truth, tally.predicted).as_dict(),
    }
    judged = [outcome for outcome in tally.outcomes if outcome is not None]
    if way.rewrites and judged:
        wrong = judged.count(Outcome.WRONG)
        figures |= {"right": judged.count(Outcome.RIGHT), "wrong": wrong, "wrong_per_100_messages": 100 * wrong / messages if messages else None}
    return figures


def _ratios(ways: Ways, figures: dict[str, dict[str, Any]], tallies: dict[str, _Tally]) -> dict[str, float]:
    ours, alone, whole = figures[ways.cascade.name], figures[ways.alone.name], figures[ways.whole.name]
    published, unconditional = figures[ways.published.name], figures[ways.unconditional.name]
    return {
        "published_gate_over_ours": published["gate_ms"] / ours["gate_ms"],
        "published_gate_over_language_model_alone": published["gate_ms"] / alone["gate_ms"],
        "published_with_rewrites_over_ours": published["ms_per_question"] / ours["ms_per_question"],
        "unconditional_over_ours_with_rewrites": unconditional["ms_per_question"] / ours["ms_per_question"],
        "language_model_alone_over_ours": alone["gate_ms"] / ours["gate_ms"],
        "whole_prompts_over_prefix_kept": whole["gate_ms_median"] / alone["gate_ms_median"],
        "published_tokens_over_ours": published["tokens_per_question"] / max(ours["tokens_per_question"], 1e-9),
    }


def cascade_curve(
    calibration: GateCalibration, examples: Sequence[Example], head: Sequence[tuple[float, float]], lm_logits: Sequence[float], lm_ms: Sequence[float]
) -> list[dict[str, float | bool]]:
    """F1, mean time and share settled by the head as its band of certainty moves, from "settles all" to "settles none"; and the shipped band.

    ``head``: (logit, milliseconds) of each question; ``lm_logits`` and ``lm_ms``: of the language model asked alone, whose time is counted for open questions only.
    """
    threshold = calibration.threshold
    bands = [(threshold * (1 - step / CURVE_STEPS), threshold + (1 - threshold) * step / CURVE_STEPS, False) for step in range(CURVE_STEPS + 1)]
    bands[-1] = (-1.0, 2.0, False)  # a probability may round to 0 or 1
    points = [_point(replace(calibration, sure_low=low, sure_high=high), examples, head, lm_logits, lm_ms, shipped) for low, high, shipped in bands]
    return [*points, _point(calibration, examples, head, lm_logits, lm_ms, True)]


def _point(
    calibration: GateCalibration, examples: Sequence[Example], head: Sequence[tuple[float, float]], lm_logits: Sequence[float], lm_ms: Sequence[float], shipped: bool
) -> dict[str, float | bool]:
    predicted, times, settled = [], [], 0
    for example, (logit, milliseconds), lm_logit, lm_time in zip(examples, head, lm_logits, lm_ms, strict=True):
        length = len(example.question.text)
        sure = calibration.is_sure(logit, length)
        settled += sure
        predicted.append(calibration.combine(logit, None if sure else lm_logit, length) >= calibration.threshold)
        times.append(milliseconds + (0.0 if sure else lm_time))
    f1 = Confusion.of([example.needs for example in examples], predicted).f1
    band = {"sure_low": calibration.sure_low, "sure_high": calibration.sure_high}
    return {**band, "settled_by_head": settled / len(examples), "ms": statistics.mean(times), "f1": f1, "shipped": shipped}


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _p95(values: Sequence[float]) -> float | None:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))] if values else None
