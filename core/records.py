"""A logged question as a line of JSON: what ``scripts.export`` and ``bots.replay --out`` write.

Members are letters in order of appearance, and texts are masked (:mod:`core.privacy`).
"""

from __future__ import annotations

from datetime import UTC
from typing import Any, Protocol

from core.messages import Question, Resolution, Verdict
from core.privacy import mask


class Labelled(Protocol):
    """A label: ``label`` is yes, no or not_question."""

    @property
    def label(self) -> str: ...


class Logged(Protocol):
    """A question with what is known of it: current verdict, rewrite and label, each None where there is none."""

    @property
    def question(self) -> Question: ...

    @property
    def verdict(self) -> Verdict | None: ...

    @property
    def resolution(self) -> Resolution | None: ...

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
