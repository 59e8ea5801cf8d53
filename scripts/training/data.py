"""Training data: every form that the project reads becomes a list of samples.

Recognised from the fields: alpaca JSON (``instruction``, ``input``, ``output``), lines of ``scripts.export --format jsonl``, group windows (``messages`` and ``questions``), and
single questions with
``needs_resolution`` and ``rewrite``.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.messages import ContextLine, join_texts
from core.text import clean_text

LABELS = ("yes", "no", "not_question")


@dataclass(frozen=True, slots=True)
class Sample:
    """One question to learn from.

    ``label`` is yes (needs resolution), no, not_question, or "" when nobody judged it; ``rewrite`` the gold rewrite or None. ``group`` says who wrote it (author or file):
    cross-validation keeps groups
    together. ``distractor``: the context does not belong to the question and may be replaced by other lines. ``prompt`` and ``answer`` are set for alpaca records, which are
    learnt as they stand.
    """

    id: str
    question: str
    sender: str
    context: tuple[ContextLine, ...]
    label: str
    rewrite: str | None
    group: str
    source: str
    distractor: bool = False
    prompt: str = ""
    answer: str = ""

    @property
    def needs_resolution(self) -> bool:
        return self.label == "yes"


def load_samples(paths: Iterable[Path]) -> list[Sample]:
    """All samples of the files, in order. Raises InputError that names file and line."""
    found: list[Sample] = []
    for path in paths:
        found += _load(path)
    if not found:
        raise InputError("training data", "no sample in the given files", "Give files of a form that docs/training.md names.")
    return found


def data_hash(paths: Iterable[Path]) -> str:
    """First 16 hex digits of the SHA-256 over the files' contents, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: (p.name, str(p))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _load(path: Path) -> list[Sample]:
    records = _records(path)
    found: list[Sample] = []
    for number, record in records:
        try:
            found += _samples(record, path.stem, number)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            problem = f"no field {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise InputError(f"{path}:{number}", problem, "Each record is alpaca, an exported question, a group window, or a question with needs_resolution.") from error
    return found


def _records(path: Path) -> list[tuple[int, Any]]:
    """(line or record number from 1, record) of a JSON list or of JSON Lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"cannot be read ({error})", "Give a UTF-8 file of JSON or JSON Lines.") from error
    try:
        if text.lstrip().startswith("["):
            return list(enumerate(json.loads(text), 1))
        number, found = 0, []
        for number, line in enumerate(text.split("\n"), 1):  # no splitlines: U+2028 may stand inside a string of JSON
            if line.strip():
                found.append((number, json.loads(line)))
        return found
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}" if text.lstrip().startswith("[") else f"{path}:{number}"
        raise InputError(where, f"no JSON ({error.msg})", "Give a UTF-8 file of JSON or JSON Lines.") from error


def _samples(record: dict[str, Any], stem: str, number: int) -> list[Sample]:
    if "instruction" in record and "output" in record:
        return [_alpaca(record, stem, number)]
    if "messages" in record and "questions" in record:
        return [_window_question(record, index, stem) for index in range(len(record["questions"]))]
    if "question" in record:
        return [_single(record, stem, number)]
    raise ValueError("unknown form of record")


def _alpaca(record: dict[str, Any], stem: str, number: int) -> Sample:
    prompt = "\n".join(part for part in (clean_text(str(record[name] or "")).strip() for name in ("instruction", "input") if name in record) if part)
    answer = clean_text(str(record["output"])).strip()
    if not answer:
        raise ValueError("empty output")
    return Sample(f"{stem}-{number}", "", "", (), "", None, stem, stem, prompt=f"{prompt}\n", answer=answer)


def _window_question(window: dict[str, Any], index: int, stem: str) -> Sample:
    question, messages = window["questions"][index], window["messages"]
    indices = list(question["indices"])
    if min(indices) < 0:
        raise ValueError(f"index {min(indices)} is below 0")
    asked = datetime.fromisoformat(messages[max(indices)]["at"])
    lines = tuple(
        ContextLine(m["sender"], _text(m["text"], "text"), str(i), (asked - datetime.fromisoformat(m["at"])).total_seconds())
        for i, m in enumerate(messages[: max(indices)])
        if i not in indices
    )
    text, gold = join_texts([_text(messages[i]["text"], "text") for i in indices]), question.get("gold")
    identity = str(window["id"])
    author = identity.split("-")[0]
    group = author if author != stem else f"{author}-"  # a file that is named after its author: what has the group of its source has no author
    return Sample(f"{identity}-q{index}", text, messages[indices[-1]]["sender"], lines, _label(question["label"]), _text(gold, "gold") if gold else None, group, stem)


def _single(record: dict[str, Any], stem: str, number: int) -> Sample:
    label, needs, exported = record.get("label"), record.get("needs_resolution"), "probability" in record
    if not isinstance(needs, bool | None):
        raise ValueError(f"needs_resolution {str(needs)[:40]!r} is neither true, false nor null")
    if label is None and needs is not None and not exported:
        label = "yes" if needs else "no"
    lines = tuple(ContextLine(str(m["sender"]), _text(m["text"], "text")) for m in record.get("context") or [])
    rewrite = None if exported else record.get("rewrite")  # there it is the bot's own guess
    return Sample(
        str(record.get("id", f"{stem}-{number}")),
        _text(record["question"], "question"),
        str(record.get("sender") or ""),
        lines,
        _label(label) if label is not None else "",
        _text(rewrite, "rewrite") if rewrite else None,
        str(record.get("group") or stem),
        stem,
        distractor=bool(record.get("context_is_distractor")),
    )


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{field} {str(value)[:40]!r} is no string")
    return clean_text(value)  # as a message is before it is served


def _label(value: object) -> str:
    if value not in LABELS:
        raise ValueError(f"label {str(value)[:40]!r} is none of {', '.join(LABELS)}")
    return str(value)


def contrast(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Gate samples from rewriting pairs that are all positive: for each original one negative, its human rewrite or the first line of another dialogue, by turns.

    Pairs whose rewrite changes nothing are left out: their label is a matter of taste.
    """
    rng = random.Random(seed)
    pairs = [s for s in samples if s.rewrite and s.context and s.rewrite != s.question]
    found: list[Sample] = []
    for index, sample in enumerate(pairs):
        found.append(sample)
        negative = sample.rewrite if index % 2 == 0 else rng.choice(pairs).context[0].text
        found.append(Sample(f"{sample.id}-contrast", str(negative), sample.sender, sample.context, "no", None, sample.group, sample.source))
    return found


def is_all_positive(samples: Sequence[Sample]) -> bool:
    """Whether a file holds rewriting pairs, so that a gate needs :func:`contrast`.

    One in twenty may be something else: corpora of rewriting keep a few questions unchanged.
    """
    return sum(s.label == "yes" and bool(s.rewrite) for s in samples) >= 0.95 * max(1, len(samples))


def fold_of(sample: Sample, folds: int) -> int:
    """Fold of a sample: authors of windows stay together, other files are split by question text (alpaca: by prompt), so that equal questions never stand on both sides."""
    key = sample.group if sample.group != sample.source else f"{sample.source} {' '.join((sample.question or sample.prompt).split())}"
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:4], "big") % folds
