"""The forms of labelled files, recognised from the fields of their first record, and read with errors that name file and line.

========  =======================================================================================================================
gate      ``context``, ``question`` and ``label`` or ``needs_resolution``; with ``rewrite`` it measures rewriting as well
window    ``messages`` with times and labelled ``questions``: a whole group chat of its own
question  ``text`` and ``is_question``
merge     ``prev``, ``cur``, ``gap_s``, ``others_between``, ``same_utterance``
context   ``messages`` and human reply ``links`` of one channel
========  =======================================================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.context import LINE_CHARS
from core.errors import InputError
from core.messages import ContextLine, ConversationKey, Question
from core.prompts import shorten

_NO_TIME = datetime(2000, 1, 1, tzinfo=UTC)

LabelName: TypeAlias = Literal["yes", "no", "not_question"]


class Form(StrEnum):
    """What a file measures."""

    GATE = "gate"
    WINDOW = "window"
    QUESTION = "question"
    MERGE = "merge"
    CONTEXT = "context"


class Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SenderText(Record):
    sender: str = ""
    text: str


class GateRecord(Record):
    """One question with its context. ``rewrite`` is the human one, when there is one."""

    id: str = ""
    lang: str = ""
    context: tuple[SenderText, ...]
    sender: str = ""
    question: str
    label: LabelName | None = None
    needs_resolution: bool | None = None
    rewrite: str | None = None
    derived: bool = False
    probability: float | None = None
    asked_at: str | None = None

    @property
    def exported(self) -> bool:
        """A line of ``scripts.export``: its verdict and rewrite are a model's, only its label is a human's."""
        return self.asked_at is not None or self.probability is not None

    @property
    def truth(self) -> LabelName | None:
        if self.label is not None or self.exported:
            return self.label
        return None if self.needs_resolution is None else ("yes" if self.needs_resolution else "no")

    @property
    def gold(self) -> str | None:
        """The human rewrite of a question that needs one."""
        return self.rewrite if self.truth == "yes" and not self.exported else None

    def as_question(self, number: int) -> Question:
        """The question as the pipeline would hand it on; ``number`` makes its id unique within a file."""
        lines = tuple(ContextLine(line.sender, shorten(line.text, LINE_CHARS), message_id=str(index)) for index, line in enumerate(self.context))
        return Question(f"{number}:{self.id}", ConversationKey("file", str(number)), self.sender, self.question, _NO_TIME, lines, sender_id=self.sender)


class WindowMessage(Record):
    """``reply_to``: index of the earlier message that this one replies to; None for none."""

    sender: str
    text: str
    at: AwareDatetime
    reply_to: Annotated[int, Field(ge=0)] | None = None


class WindowQuestion(Record):
    """``indices`` of the messages that form the question; ``must_contain`` None: what ``gold`` adds decides."""

    indices: Annotated[tuple[int, ...], Field(min_length=1)]
    label: LabelName
    gold: str | None = None
    kind: str = ""
    difficulty: str = ""
    must_contain: tuple[str, ...] = ()
    must_not_contain: tuple[str, ...] = ()


class Window(Record):
    id: str
    lang: str = ""
    messages: Annotated[tuple[WindowMessage, ...], Field(min_length=1)]
    questions: tuple[WindowQuestion, ...]

    @model_validator(mode="after")
    def _indices_exist(self) -> Window:
        if any(not 0 <= index < len(self.messages) for question in self.questions for index in question.indices):
            raise ValueError("a question's indices name a message that is not in the window")
        if any(message.reply_to is not None and message.reply_to >= index for index, message in enumerate(self.messages)):
            raise ValueError("a message replies to one that is not before it")
        return self


class QuestionRecord(Record):
    text: str
    is_question: bool
    lang: str = ""


class MergeRecord(Record):
    prev: str
    cur: str
    gap_s: Annotated[float, Field(ge=0)]
    others_between: Annotated[int, Field(ge=0)]
    same_utterance: bool
    gap_resolution_s: int = 1


class Channel(Record):
    """One channel. A message is (time ``HH:MM`` or ``HH:MM:SS``, sender or None for a system line, text); a link is (earlier, later)."""

    file: str = ""
    channel: str = ""
    first_annotated: int = 0
    messages: tuple[tuple[str | None, str | None, str], ...]
    links: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A labelled file, read. ``records`` are of the one class that belongs to ``form``."""

    path: Path
    form: Form
    records: Sequence[Any]


_CLASSES: dict[Form, type[Record]] = {Form.GATE: GateRecord, Form.WINDOW: Window, Form.QUESTION: QuestionRecord, Form.MERGE: MergeRecord, Form.CONTEXT: Channel}
_FIELDS: tuple[tuple[Form, frozenset[str]], ...] = (
    (Form.WINDOW, frozenset({"messages", "questions"})),
    (Form.CONTEXT, frozenset({"messages", "links"})),
    (Form.MERGE, frozenset({"prev", "cur", "gap_s", "same_utterance"})),
    (Form.GATE, frozenset({"context", "question"})),
    (Form.QUESTION, frozenset({"text", "is_question"})),
)


def read_file(path: Path, limit: int | None = None) -> DataFile:
    """Read the first ``limit`` records of a JSON Lines file.

    :raises InputError: for a file that cannot be read, is empty, has an unknown form or a bad line.
    """
    form: Form | None = None
    records: list[Record] = []
    for number, raw in _objects(path):
        if form is None:
            form = _form_of(path, raw)
        try:
            records.append(_CLASSES[form].model_validate(raw))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "record"
            raise InputError(f"{path}:{number}", f"{where}: {first['msg'].lower()}", f"Mend or remove this line; the file was taken for a {form} file.") from None
        if limit is not None and len(records) >= limit:
            break
    if form is None:
        raise InputError(str(path), "holds no record", "Give a JSON Lines file with labelled records.")
    return DataFile(path, form, records)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{path}:{number}", f"is not JSON ({error})", "Mend or remove this line.") from None
                if not isinstance(value, dict):
                    raise InputError(f"{path}:{number}", "is not a JSON object", "Each line holds one object.")
                yield number, value
    except FileNotFoundError:
        raise InputError(str(path), "no such file", "Check the path.") from None
    except UnicodeDecodeError:
        raise InputError(str(path), "is not UTF-8 text", "Save it as UTF-8.") from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}", "Check the path and its permissions.") from None


def _form_of(path: Path, record: dict[str, Any]) -> Form:
    for form, needed in _FIELDS:
        if needed <= record.keys():
            return form
    known = "; ".join(f"{form}: {', '.join(sorted(needed))}" for form, needed in _FIELDS)
    raise InputError(str(path), f"unknown form (fields {', '.join(sorted(record)[:12])})", f"Known forms and their fields: {known}.")
