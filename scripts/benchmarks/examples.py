"""Labelled questions for the benchmarks of the gate, from group windows or gate files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from core.errors import InputError
from core.messages import ContextLine, ConversationKey, Question, join_texts
from scripts.evaluation.forms import DataFile, Form, GateRecord, Window, WindowQuestion, read_file
from scripts.evaluation.windows import Answer, Outcome

#: The windows that come with the project. The shipped models were trained on them: figures on them say nothing about quality elsewhere.
SHIPPED_WINDOWS = Path(__file__).resolve().parents[2] / "examples" / "windows"
#: Earlier messages that a question keeps, as ``[gate] context_lines``.
CONTEXT_LINES = 16
_NO_WINDOW = Window(id="", messages=({"sender": "", "text": "", "at": "2000-01-01T00:00:00Z"},), questions=())  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Example:
    """One question that is labelled yes or no. ``labelled`` says what a right rewrite holds; None where no human wrote one."""

    question: Question
    needs: bool
    labelled: WindowQuestion | None

    def outcome(self, rewrite: str | None) -> Outcome | None:
        """What it means to give ``rewrite`` to the group; one that changes nothing is none. None where that cannot be told."""
        if self.labelled is None:
            return None
        given = None if rewrite is None or rewrite.strip() == self.question.text.strip() else rewrite
        return Answer(_NO_WINDOW, self.labelled, self.question).outcome_of(given)


@dataclass(frozen=True, slots=True)
class Sample:
    """``messages``: of the windows that the examples are from, 0 where the files are no windows. ``shipped``: the models were trained on them."""

    examples: tuple[Example, ...]
    messages: int
    files: tuple[str, ...]
    shipped: bool


def read_sample(paths: Sequence[Path], limit: int, seed: int = 1) -> Sample:
    """About ``limit`` questions of ``paths`` (none: the shipped windows): whole windows or single records, drawn by ``seed``.

    :raises InputError: for a file that cannot be read, is of another form, or has no question that is labelled yes or no.
    """
    chosen = list(paths) or sorted(SHIPPED_WINDOWS.glob("*.jsonl"))
    if not chosen:
        raise InputError(str(SHIPPED_WINDOWS), "holds no windows", "Name a labelled file.")
    units: list[tuple[int, list[Example]]] = [unit for path in chosen for unit in _units(read_file(path))]
    random.Random(seed).shuffle(units)
    examples: list[Example] = []
    messages = 0
    for count, found in units:
        if len(examples) >= limit:
            break
        examples += found
        messages += count
    if not {example.needs for example in examples} == {True, False}:
        raise InputError(", ".join(map(str, chosen)), "too few questions that are labelled yes and no", "Name a file with both, or a higher --limit.")
    return Sample(tuple(examples), messages, tuple(path.name for path in chosen), not paths)


def _units(data: DataFile) -> list[tuple[int, list[Example]]]:
    """(messages, examples) of each window or record."""
    if data.form is Form.WINDOW:
        return [(len(window.messages), _of_window(window)) for window in data.records]
    if data.form is Form.GATE:
        return [(0, [_of_record(record, number)]) for number, record in enumerate(data.records) if record.truth in ("yes", "no")]
    raise InputError(str(data.path), f"is a {data.form} file", "The gate is measured on group windows or gate files.")


def _of_window(window: Window) -> list[Example]:
    return [Example(_question(window, labelled, number), labelled.label == "yes", labelled) for number, labelled in enumerate(window.questions) if labelled.label in ("yes", "no")]


def _question(window: Window, labelled: WindowQuestion, number: int) -> Question:
    last = labelled.indices[-1]
    asked = window.messages[last]
    earlier = [index for index in range(last) if index not in labelled.indices][-CONTEXT_LINES:]
    lines = tuple(ContextLine(window.messages[index].sender, window.messages[index].text, str(index), (asked.at - window.messages[index].at).total_seconds()) for index in earlier)
    text = join_texts([window.messages[index].text for index in labelled.indices])
    identity = f"{window.id}:{number}"
    return Question(identity, ConversationKey("bench", window.id), asked.sender, text, asked.at.astimezone(UTC), lines, sender_id=asked.sender)


def _of_record(record: GateRecord, number: int) -> Example:
    labelled = None
    if record.truth == "no" or record.gold is not None:
        labelled = WindowQuestion(indices=(0,), label=record.truth or "no", gold=record.gold)
    return Example(record.as_question(number), record.truth == "yes", labelled)
