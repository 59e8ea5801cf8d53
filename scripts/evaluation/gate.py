"""The gate alone, on questions with their context."""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.head import expected_calibration_error, reliability
from core.ports import Gate
from scripts.evaluation.forms import GateRecord
from scripts.evaluation.metrics import Confusion, auc
from scripts.evaluation.results import Advance, Result

_BATCH = 16
_PRONOUN = re.compile(
    r"[它他她这那此其]|前者|后者|上面|刚才|\b(?:it|its|this|that|these|those|they|them|their|he|she|his|her|him|one|ones|there)\b",
    re.IGNORECASE,
)


def has_pronoun(text: str) -> bool:
    """The trivial rule: a question with a referring word needs resolution."""
    return bool(_PRONOUN.search(text))


def trivial_baselines(truth: Sequence[bool], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """What a gate has to beat on the same items."""
    return {
        "always yes": Confusion.of(truth, [True] * len(truth)).as_dict(),
        "pronoun regex": Confusion.of(truth, [has_pronoun(text) for text in texts]).as_dict(),
    }


async def evaluate_gate(records: Sequence[GateRecord], gate: Gate, advance: Advance) -> Result:
    """Precision, recall and F1 at the gate's own threshold, and AUC, over the items labelled yes or no. Raises :class:`core.errors.BackendError`."""
    scored = [record for record in records if record.truth in ("yes", "no")]
    left_out = [record for record in records if record.truth == "not_question"]
    truth = [record.truth == "yes" for record in scored]
    questions = [record.as_question(number) for number, record in enumerate(scored)]
    verdicts = []
    for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + _BATCH]
        verdicts += await gate.judge(batch)
        advance(len(batch))
    advance(len(records) - len(scored))
    probabilities = [verdict.probability for verdict in verdicts]
    predicted = [verdict.needs_resolution for verdict in verdicts]
    metrics: dict[str, float | int | None] = {
        **Confusion.of(truth, predicted).as_dict(),
        "auc": auc(truth, probabilities),
        "threshold": verdicts[0].threshold if verdicts else None,
        "calibration_error": expected_calibration_error(probabilities, truth),
    }
    stages = sorted({verdict.stage for verdict in verdicts})
    details = {
        "yes": sum(truth),
        "no": len(truth) - sum(truth),
        "not_question": len(left_out),
        "models": sorted({f"{v.model} {v.adapter}".strip() for v in verdicts}),
        "settled_by": {stage: sum(verdict.stage == stage for verdict in verdicts) for stage in stages},
    }
    notes = [f"{len(left_out)} items labelled not_question are left out"] if left_out else []
    if len(set(truth)) < 2:
        notes.append("all items have the same label: there is no AUC")
    baselines = trivial_baselines(truth, [record.question for record in scored])
    return Result("gate", len(scored), metrics, baselines, details=details, notes=tuple(notes), reliability=reliability(probabilities, truth))
