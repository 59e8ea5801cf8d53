"""Labelled questions of a scaling run or a frozen test set: yes or no, with what is known of each for grouping."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import InputError
from core.messages import ContextLine, ConversationKey, Question, join_texts
from scripts.evaluation.forms import DataFile, Form, GateRecord, Window, read_file
from scripts.evaluation.gate import has_pronoun
from scripts.evaluation.metrics import is_chinese

#: What :mod:`scripts.snapshot` calls the labels in its folder.
SNAPSHOT_FILE = "labels.jsonl"
#: Upper bounds of the length groups in characters; the last is open.
_LENGTHS = (10, 20, 40)
_LATIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]+")
_FORMS = "Give a snapshot folder, lines of scripts.export, questions with labels, or group windows."


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled question. ``id`` is that of the log for exported lines; ``needs_resolution`` is the label; ``patterns``: grouping -> group."""

    id: str
    question: Question
    needs_resolution: bool
    patterns: dict[str, str]
    source: str


def read_items(paths: Sequence[Path], limit: int | None = None) -> list[Item]:
    """All questions of the files that are labelled yes or no, in order; ``limit``: the first so many of each file.

    :raises InputError: for a file of another form, or when nothing is labelled.
    """
    found: list[Item] = []
    for path in paths:
        found += _of_file(read_file(path / SNAPSHOT_FILE if path.is_dir() else path, limit))
    if not found:
        raise InputError(", ".join(str(path) for path in paths), "holds no question labelled yes or no", _FORMS)
    return found


def _of_file(data: DataFile) -> list[Item]:
    if data.form is Form.GATE:
        return [_of_record(record, number, data.path) for number, record in enumerate(data.records) if record.truth in ("yes", "no")]
    if data.form is Form.WINDOW:
        return [item for window in data.records for item in _of_window(window, data.path)]
    raise InputError(str(data.path), f"is a {data.form} file, which has no labels of the gate", _FORMS)


def _of_record(record: GateRecord, number: int, path: Path) -> Item:
    identity = record.id or f"{path.stem}:{number}"
    question = replace(record.as_question(number), id=identity)
    return Item(identity, question, record.truth == "yes", patterns_of(question.text, record.truth == "yes", record.lang), path.stem)


def _of_window(window: Window, path: Path) -> list[Item]:
    found = []
    for number, labelled in enumerate(window.questions):
        if labelled.label == "not_question":
            continue
        last, own = max(labelled.indices), set(labelled.indices)
        asked = window.messages[last]
        lines = tuple(
            ContextLine(message.sender, message.text, str(index), (asked.at - message.at).total_seconds())
            for index, message in enumerate(window.messages[:last])
            if index not in own
        )
        text, identity = join_texts([window.messages[index].text for index in labelled.indices]), f"{window.id}-q{number}"
        question = Question(identity, ConversationKey("window", window.id), asked.sender, text, asked.at, lines, sender_id=asked.sender)
        found.append(Item(identity, question, labelled.label == "yes", patterns_of(text, labelled.label == "yes", window.lang, labelled.kind), path.stem))
    return found


def patterns_of(text: str, needs_resolution: bool, lang: str = "", kind: str = "") -> dict[str, str]:
    """What a question looks like. ``kind`` stands only where the data has one."""
    found = {
        "label": "yes" if needs_resolution else "no",
        "length": _length(text),
        "pronoun": "pronoun" if has_pronoun(text) else "no pronoun",
        "name": "Latin name" if _LATIN_NAME.search(text) and is_chinese(text) else "other name or none",
        "language": "zh" if is_chinese(text, lang) else "en",
    }
    return {**found, "kind": kind} if kind else found


def _length(text: str) -> str:
    lower = 1
    for upper in _LENGTHS:
        if len(text) <= upper:
            return f"{lower}-{upper} characters"
        lower = upper + 1
    return f"{lower} characters and more"
