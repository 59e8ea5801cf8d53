"""The frozen test set: large enough to tell noise from progress, and nothing in it that was learnt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from core.errors import InputError
from core.grounding import squeeze
from scripts.scaling_law.items import Item, read_items
from scripts.training.data import Sample, load_samples

#: A quarter of the test set must bear the rarer label, or its F1 rests on a handful of items.
_RARER = 0.25


def question_key(text: str) -> str:
    """The same for two writings of a question: a hash after NFKC, case folding and removal of white space."""
    return hashlib.sha256(squeeze(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_test_set(path: Path, least: int) -> list[Item]:
    """The items of the frozen test set.

    :param least: items that are needed. :raises InputError: for a file that cannot be read, too few items, or almost all of one label.
    """
    items = read_items([path])
    if len(items) < least:
        remedy = f"Label more and freeze them, or lower --min-test; with {len(items)} items only a very large step is beyond noise."
        raise InputError(str(path), f"a test set of {len(items)} labelled questions is too small, {least} are needed", remedy)
    yes = sum(item.needs_resolution for item in items)
    if min(yes, len(items) - yes) < _RARER * least:
        problem = f"a test set of {yes} questions that need resolution and {len(items) - yes} that do not says little"
        raise InputError(str(path), problem, f"Give at least {round(_RARER * least)} of each.")
    return items


def keys_of_items(items: Iterable[Item]) -> set[str]:
    return {question_key(item.question.text) for item in items}


def keys_of_samples(samples: Iterable[Sample]) -> set[str]:
    """Everything that is learnt as a question: the question, and its rewrite, which stands for one that needs nothing."""
    return {question_key(text) for sample in samples for text in (sample.question, sample.rewrite) if text}


def without_test_questions(labels: Path, test: set[str], out: Path) -> tuple[int, int]:
    """Write the records of a JSON Lines file of questions that are not in the test set to ``out``. Returns how many stay and how many are left out."""
    kept, left_out = [], 0
    try:
        lines = [line for line in labels.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(labels), f"cannot be read ({error})", "Give a snapshot folder, or a JSON Lines file of labels.") from None
    for number, line in enumerate(lines, 1):
        try:
            record: dict[str, Any] = json.loads(line)
            texts = [record["question"], record.get("rewrite") or ""]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{labels}:{number}", "is no labelled question", "Give a snapshot folder, or lines of scripts.export.") from None
        if any(question_key(text) in test for text in texts if text):
            left_out += 1
        else:
            kept.append(line)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return len(kept), left_out


def refuse_overlap(data: Sequence[Path], test: set[str], test_name: str) -> None:
    """:raises InputError: when a file of training data shares questions with the test set, or hides its questions (alpaca)."""
    for path in data:
        samples = load_samples([path])
        if any(sample.prompt for sample in samples):
            raise InputError(str(path), "alpaca records hide their questions: nobody can tell whether the test set is among them", "Give the same data as exported jsonl.")
        shared = keys_of_samples(samples) & test
        if shared:
            remedy = "Remove them from one of the two: a test on what was learnt proves nothing."
            raise InputError(str(path), f"shares {len(shared)} questions with the test set {test_name}", remedy)
