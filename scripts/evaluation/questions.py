"""The question filter alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from core.question_filter import QuestionFilter
from scripts.evaluation.forms import QuestionRecord
from scripts.evaluation.metrics import Confusion
from scripts.evaluation.results import Advance, Result


def evaluate_questions(records: Sequence[QuestionRecord], question_filter: QuestionFilter, advance: Advance) -> Result:
    """Precision, recall and F1 of "is a question", with the rules that kept or dropped wrongly."""
    truth = [record.is_question for record in records]
    examined = [question_filter.examine(record.text) for record in records]
    advance(len(records))
    marks = ["?" in record.text or "？" in record.text for record in records]
    wrong = Counter(found.rule for found, is_question in zip(examined, truth, strict=True) if found.is_question != is_question)
    return Result(
        "question",
        len(records),
        dict(Confusion.of(truth, [found.is_question for found in examined]).as_dict()),
        {"question mark": Confusion.of(truth, marks).as_dict(), "always yes": Confusion.of(truth, [True] * len(truth)).as_dict()},
        details={"wrong_by_rule": dict(wrong.most_common(8))},
    )
