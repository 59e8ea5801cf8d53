"""Labels in files of other tools, read record by record: what is broken is told by file and record, what is good is kept.

============  ==================================================================================================================
label-studio  Label Studio's JSON (tasks with ``annotations``) and JSON-MIN (one annotation a record, with ``question_id``)
jsonl         lines of ``scripts.export --format jsonl`` or of a snapshot, with ``label``
alpaca        ``instruction`` as ``scripts.export --format alpaca`` writes it, which tells the question, and ``output``
============  ==================================================================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.text import clean_text
from scripts.exporting import OPTIONS
from storage.labels import LabelValue

_LONGEST_REWRITE = 4000
_OPTION = re.compile(r"^([A-Z])[:：](.+)$", re.MULTILINE)
_REMEDY = "Give a UTF-8 file that Label Studio or python -m scripts.export wrote."


class ImportFormat(StrEnum):
    """``AUTO``: told from the fields of each record."""

    AUTO = "auto"
    LABEL_STUDIO = "label-studio"
    JSONL = "jsonl"
    ALPACA = "alpaca"


@dataclass(frozen=True, slots=True)
class GivenLabel:
    """A label in a file. ``question_id`` "" where ``instruction`` tells the question; ``at``: when it was given, None where the file does not say; ``annotator``: who, by the other
    tool's number; ``exported_rewrite``: ``rewrite`` stands where an export puts the bot's own, so that it is a labeller's only if it differs from that; ``lines``: of the context,
    as the labeller saw them.
    """

    where: str
    question_id: str
    label: LabelValue
    rewrite: str | None = None
    at: datetime | None = None
    annotator: str = ""
    instruction: str = ""
    exported_rewrite: bool = False
    lines: int = 0


@dataclass(slots=True)
class ReadFile:
    """``broken``: one line for each record that cannot be used; ``unlabelled``: records that carry no label (skipped, unknown, not done yet)."""

    labels: list[GivenLabel] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    unlabelled: int = 0


class _BrokenError(Exception):
    """What is wrong with a record."""


def read_labels(path: Path, form: ImportFormat) -> ReadFile:
    """Raises InputError for a file that cannot be read at all, or has no records."""
    found, number = ReadFile(), 0
    for number, record in _records(path):
        where = f"{path}: record {number}"
        try:
            if isinstance(record, _BrokenError):
                raise record
            labels = _labels(record, form, where)
        except _BrokenError as problem:
            found.broken.append(f"{where}: {problem}")
            continue
        found.labels += labels
        found.unlabelled += not labels
    if number == 0:
        raise InputError(str(path), "holds no records", _REMEDY)
    return found


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, record or what is wrong with it) of a JSON array or of JSON Lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(str(path), "is not UTF-8 text", _REMEDY) from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}", "Check the path and its permissions.") from None
    return _of_array(text) if text.lstrip().startswith("[") else _of_lines(text)


def _of_lines(text: str) -> Iterator[tuple[int, Any]]:
    number = 0
    for line_number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        number += 1
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, _BrokenError(f"line {line_number} is no JSON ({_reason(error)})")


def _of_array(text: str) -> Iterator[tuple[int, Any]]:
    """Element by element, so that a file that breaks off gives what stands before the break."""
    decoder, number = json.JSONDecoder(), 0
    position = text.index("[") + 1
    while True:
        position = _skip(text, position, " \t\r\n")
        if text[position : position + 1] == "]":
            return
        number += 1
        try:
            record, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            at = error.pos if isinstance(error, json.JSONDecodeError) else position
            yield number, _BrokenError(f"the file breaks off or is no JSON in line {text.count(chr(10), 0, at) + 1} ({_reason(error)}); nothing after it can be read")
            return
        yield number, record
        position = _skip(text, position, " \t\r\n")
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            yield number + 1, _BrokenError("the file breaks off here; nothing after it can be read")
            return


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _labels(record: Any, form: ImportFormat, where: str) -> list[GivenLabel]:
    if not isinstance(record, dict):
        raise _BrokenError(f"is no object but {type(record).__name__}")
    if form is ImportFormat.AUTO:
        form = _form_of(record)
    if form is ImportFormat.LABEL_STUDIO:
        return _of_task(record, where) if "data" in record or "annotations" in record else _of_minimal(record, where)
    return _of_exported(record, where) if form is ImportFormat.JSONL else _of_alpaca(record, where)


def _form_of(record: dict[str, Any]) -> ImportFormat:
    if "annotations" in record or "annotation_id" in record or isinstance(record.get("data"), dict):
        return ImportFormat.LABEL_STUDIO
    if "instruction" in record and "output" in record:
        return ImportFormat.ALPACA
    if "id" in record and ("question" in record or "label" in record):
        return ImportFormat.JSONL
    raise _BrokenError(f"is of no known form (its fields: {', '.join(sorted(map(str, record))[:8]) or 'none'})")


# --- Label Studio


def _of_task(task: dict[str, Any], where: str) -> list[GivenLabel]:
    data = task.get("data")
    annotations = task.get("annotations")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise _BrokenError("has not both 'data' and 'annotations', as Label Studio's JSON export has")
    question_id = _question_id(data.get("question_id") or data.get("id"), "data.id")
    found = []
    for annotation in annotations:
        if not isinstance(annotation, dict):
            raise _BrokenError("has an annotation that is no object")
        if annotation.get("was_cancelled"):
            continue
        choice, rewrite = _results(annotation.get("result"))
        if choice is not None:
            label = _label(choice)
            at = _time(annotation.get("updated_at") or annotation.get("created_at"))
            annotator = _annotator(annotation.get("completed_by"))
            found.append(GivenLabel(where, question_id, label, _rewrite(rewrite, label), at, annotator, lines=_lines(data.get("dialogue"))))
    return found


def _results(result: Any) -> tuple[Any, Any]:
    """(choice, text) of an annotation; those named label and rewrite where a config has several of a kind."""
    if not isinstance(result, list) or not all(isinstance(region, dict) and isinstance(region.get("value"), dict) for region in result):
        raise _BrokenError("has an annotation whose 'result' is no list of regions")
    choices = [(region.get("from_name") != "label", region["value"].get("choices")) for region in result if region.get("type") == "choices"]
    texts = [(region.get("from_name") != "rewrite", region["value"].get("text")) for region in result if region.get("type") == "textarea"]
    pick = [min(found, key=lambda one: one[0])[1] if found else None for found in (choices, texts)]
    return _only(pick[0]), _only(pick[1])


def _of_minimal(record: dict[str, Any], where: str) -> list[GivenLabel]:
    if "question_id" not in record:
        raise _BrokenError("has no 'question_id': JSON-MIN drops the id of tasks that were exported without it; export from Label Studio as JSON")
    choice = record.get("label")
    choice = _only(choice.get("choices") if isinstance(choice, dict) else choice)
    if choice is None:
        return []
    label = _label(choice)
    rewrite = _rewrite(_only(record.get("rewrite")), label)
    at = _time(record.get("updated_at") or record.get("created_at"))
    question_id, annotator = _question_id(record["question_id"], "question_id"), _annotator(record.get("annotator"))
    return [GivenLabel(where, question_id, label, rewrite, at, annotator, lines=_lines(record.get("dialogue")))]


def _only(value: Any) -> Any:
    """The one element of a list."""
    if not isinstance(value, list):
        return value
    if len(value) > 1:
        raise _BrokenError(f"has {len(value)} choices or texts where one is expected")
    return value[0] if value else None


def _annotator(value: Any) -> str:
    """Label Studio's number of who annotated. Names and addresses that some versions add are not taken over."""
    if isinstance(value, dict):
        value = value.get("id")
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""


# --- own exports


def _of_exported(record: dict[str, Any], where: str) -> list[GivenLabel]:
    question_id = _question_id(record.get("id"), "id")
    if "label" not in record:
        raise _BrokenError("has no 'label'")
    if record["label"] is None:
        return []
    label = _label(record["label"])
    rewrite, lines = _rewrite(record.get("rewrite"), label), _lines(record.get("context"))
    return [GivenLabel(where, question_id, label, rewrite, exported_rewrite="probability" in record, lines=lines)]


def _of_alpaca(record: dict[str, Any], where: str) -> list[GivenLabel]:
    instruction, output = record.get("instruction"), record.get("output")
    if not isinstance(instruction, str) or not isinstance(output, str):
        raise _BrokenError("has not both 'instruction' and 'output' as texts")
    offered = {letter: text.strip() for letter, text in _OPTION.findall(instruction)}
    given = output.strip()
    text = offered.get(given[:1]) if not given[1:] else (match[2].strip() if (match := _OPTION.fullmatch(given)) else given)
    answers = {text: answer for answer, text in OPTIONS.items()}
    if text not in answers:
        raise _BrokenError(f"has the output {given[:40]!r}, which is none of {', '.join(answers)}")
    if answers[text] == "unknown":
        return []
    return [GivenLabel(where, "", LabelValue(answers[text]), instruction=instruction)]


# --- fields


def _question_id(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _BrokenError(f"has no question's id in {name!r}")
    return clean_text(value)


def _label(value: Any) -> LabelValue:
    try:
        return LabelValue(value)
    except ValueError:
        raise _BrokenError(f"has the label {str(value)[:40]!r}, which is none of {', '.join(LabelValue)}") from None


def _rewrite(value: Any, label: LabelValue) -> str | None:
    """A rewrite belongs to a question that needs one."""
    if value is None or label is not LabelValue.YES:
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_REWRITE:
        raise _BrokenError(f"has a rewrite that is no text of at most {_LONGEST_REWRITE} characters")
    return clean_text(value).strip() or None


def _lines(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        at = datetime.fromisoformat(value)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise _BrokenError(f"has the time {str(value)[:40]!r}, which is not ISO-8601") from None
