"""A logged question as a line of JSON: what ``scripts.export`` and ``bots.replay --out`` write.

Members are letters in order of appearance, and texts are masked (:mod:`core.privacy`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Protocol

from core.messages import Question
from core.ports import ResolvedQuestion
from core.privacy import mask

_LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\u0085\u2028\u2029"}
_HAN = re.compile(r"[\u3400-\u9fff]")


class Labelled(Protocol):
    """What labellers agreed on: ``label`` is yes, no or not_question; ``rewrite``: the question as it should stand alone, where one of them wrote it."""

    @property
    def label(self) -> str: ...

    @property
    def rewrite(self) -> str | None: ...


class Logged(ResolvedQuestion, Protocol):
    """A question with what is known of it: current verdict, rewrite and label, each None where there is none."""

    @property
    def label(self) -> Labelled | None: ...


def letter(number: int) -> str:
    """0 is A, 25 is Z, 26 is AA: as columns of a sheet."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def sender_letters(question: Question) -> dict[str, str]:
    """The letter of each member of a record: those of the context in order of appearance, the asker where first seen."""
    names = dict.fromkeys([*(line.sender for line in question.context), question.sender])
    return {name: letter(number) for number, name in enumerate(names)}


def question_record(logged: Logged) -> dict[str, Any]:
    """One line of the exported JSONL. Verdict, ``rewrite`` and ``label`` are None where there is none; ``model`` is ``name`` or ``name+adapter``."""
    question, verdict, resolution, label = logged.question, logged.verdict, logged.resolution, logged.label
    letters = sender_letters(question)
    return {
        "id": question.id,
        "platform": question.conversation.platform,
        "chat_id": question.conversation.chat_id,
        "sender": letters[question.sender],
        "question": mask(question.text),
        "context": [{"sender": letters[line.sender], "text": mask(line.text)} for line in question.context],
        "message_ids": list(question.message_ids),
        "asked_at": question.asked_at.astimezone(UTC).isoformat(),
        "probability": verdict.probability if verdict else None,
        "needs_resolution": verdict.needs_resolution if verdict else None,
        "rewrite": mask(resolution.rewrite) if resolution and resolution.rewrite is not None else None,
        "model": "+".join(part for part in (verdict.model, verdict.adapter) if part) if verdict else None,
        "label": str(label.label) if label else None,
    }


def labelled_record(logged: Logged) -> dict[str, Any] | None:
    """One line of a snapshot, in the form that ``scripts.train`` and ``scripts.evaluate`` read, or None without a label. ``rewrite`` is a labeller's, never a model's."""
    question, label = logged.question, logged.label
    if label is None:
        return None
    letters = sender_letters(question)
    needs = label.label == "yes"
    return {
        "id": question.id,
        "lang": language_of(question.text),
        "context": [{"sender": letters[line.sender], "text": mask(line.text)} for line in question.context],
        "sender": letters[question.sender],
        "question": mask(question.text),
        "needs_resolution": needs,
        "label": str(label.label),
        "rewrite": mask(label.rewrite) if needs and label.rewrite else None,
    }


def json_line(record: Mapping[str, Any]) -> str:
    """``record`` as one line of JSON Lines. Characters that some readers take for the end of a line (U+2028, U+2029, U+0085) are escaped."""
    return json.dumps(record, ensure_ascii=False).translate(_LINE_ENDS) + "\n"


def language_of(text: str) -> str:
    """``zh`` where there is a Chinese character, else ``en``: group talk about software is full of English names."""
    return "zh" if _HAN.search(text) else "en"
