"""Figures of whole group windows: gate, outcomes, the curve of the acceptance threshold, and breakdowns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.config import Config
from scripts.evaluation.forms import Window
from scripts.evaluation.gate import trivial_baselines
from scripts.evaluation.metrics import Confusion, auc, is_chinese
from scripts.evaluation.results import Advance, Models, Result
from scripts.evaluation.windows import Answer, Outcome, run_windows

Metrics = dict[str, float | int | None]
_THRESHOLDS = tuple(number / 20 for number in range(21))
#: Upper bounds of the length buckets in characters; the last is open.
_LENGTHS = (10, 20, 40)


async def evaluate_windows(windows: Sequence[Window], models: Models, config: Config, advance: Advance) -> Result:
    """See :func:`window_result`. Raises :class:`core.errors.BackendError`."""
    return window_result(await run_windows(windows, models, config, advance))


def window_result(answers: Sequence[Answer]) -> Result:
    """Gate precision, recall, F1 over all labelled questions (not found: predicted no; ``not_question`` counts as no) and counts of outcomes."""
    truth = [answer.needs_resolution for answer in answers]
    breakdown = {name: _by(answers, key) for name, key in _GROUPINGS.items()}
    verdicts = [answer.verdict for answer in answers if answer.verdict is not None]
    missed = sum(answer.question is None for answer in answers if answer.labelled.label != "not_question")
    probabilities = [answer.verdict.probability if answer.verdict else 0.0 for answer in answers]
    details = {
        "needs_resolution": sum(truth),
        "stands_alone": sum(answer.labelled.label == "no" for answer in answers),
        "not_question": sum(answer.labelled.label == "not_question" for answer in answers),
        "judged_yes": sum(answer.judged_yes for answer in answers),
        "accepted": sum(answer.rewrite is not None for answer in answers),
        "wrong_share_of_accepted": _share(_count(answers, Outcome.WRONG), sum(answer.rewrite is not None for answer in answers)),
        "right_share_of_needed": _share(_count(answers, Outcome.RIGHT), sum(truth)),
        "best_candidates_right": sum(answer.needs_resolution and answer.outcome_of(answer.candidate) is Outcome.RIGHT for answer in answers),
        "models": sorted({f"{v.model} {v.adapter}".strip() for v in verdicts} | {f"{a.resolution.model} {a.resolution.adapter}".strip() for a in answers if a.resolution}),
    }
    metrics = {**_metrics(answers), "auc": auc(truth, probabilities), "threshold": verdicts[0].threshold if verdicts else None, "invented": sum(a.invents for a in answers)}
    notes = (f"{missed} labelled questions were not kept as questions",) if missed else ()
    return Result("window", len(answers), metrics, trivial_baselines(truth, [answer.text for answer in answers]), breakdown, curve(answers), details, notes)


def curve(answers: Sequence[Answer]) -> list[dict[str, float | int]]:
    """What would be accepted at each confidence threshold. ``right_share`` is of the questions that need resolution, ``wrong_share`` of those accepted."""
    needed = sum(answer.needs_resolution for answer in answers)
    points: list[dict[str, float | int]] = []
    for threshold in _THRESHOLDS:
        outcomes = [
            answer.outcome_of(answer.candidate)
            for answer in answers
            if answer.resolution is not None and answer.refused_only_as_unsure and answer.resolution.confidence >= threshold
        ]
        right, wrong = outcomes.count(Outcome.RIGHT), outcomes.count(Outcome.WRONG)
        points.append(
            {
                "threshold": threshold,
                "accepted": len(outcomes),
                "right": right,
                "wrong": wrong,
                "right_share": _share(right, needed),
                "wrong_share": _share(wrong, len(outcomes)),
            }
        )
    return points


def _metrics(answers: Sequence[Answer]) -> Metrics:
    confusion = Confusion.of([answer.needs_resolution for answer in answers], [answer.judged_yes for answer in answers])
    return {
        **confusion.as_dict(),
        "right": _count(answers, Outcome.RIGHT),
        "wrong": _count(answers, Outcome.WRONG),
        "refused": _count(answers, Outcome.REFUSED),
        "found": sum(answer.question is not None for answer in answers if answer.labelled.label != "not_question"),
    }


def _count(answers: Sequence[Answer], outcome: Outcome) -> int:
    return sum(answer.outcome_of(answer.rewrite) is outcome for answer in answers)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _length_bucket(answer: Answer) -> str:
    lower = 1
    for upper in _LENGTHS:
        if len(answer.text) <= upper:
            return f"{lower}-{upper}"
        lower = upper + 1
    return f"{lower}+"


def _language(answer: Answer) -> str:
    return "zh" if is_chinese(answer.text, answer.window.lang) else "en"


_GROUPINGS: dict[str, Callable[[Answer], str]] = {
    "kind": lambda answer: answer.labelled.kind,
    "language": _language,
    "length": _length_bucket,
    "difficulty": lambda answer: answer.labelled.difficulty,
}


def _by(answers: Sequence[Answer], key: Callable[[Answer], str]) -> dict[str, Metrics]:
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(key(answer) or "-", []).append(answer)
    return {name: {"n": len(members), "yes": sum(a.needs_resolution for a in members), **_metrics(members)} for name, members in sorted(groups.items())}
