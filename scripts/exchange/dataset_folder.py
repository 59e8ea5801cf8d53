"""A folder that the Hugging Face libraries read as a dataset: Parquet files and a README that is the dataset card.

Written with pyarrow alone; ``datasets.load_dataset(FOLDER)`` reads it.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core.errors import InputError
from core.privacy import mask
from core.records import Logged, language_of

MARK = "<!-- written by doujie -->"
"""Stands in the card: a folder with it may be replaced by a newer export."""
_ROWS = 1000
_DATA = Path("data") / "train-00000-of-00001.parquet"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

_CARD = """---
pretty_name: Group-chat questions logged by doujie
license: other
language:
{languages}
task_categories:
- text-classification
tags:
- conversational
- coreference-resolution
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
{mark}

# Group-chat questions logged by doujie

Questions that were asked in group chats, each with the conversation before it: does it need that conversation to be understood, and how does it read when it stands alone?

| column | meaning |
|---|---|
| `id` | of the question, unique |
| `lang` | `zh` or `en`, by the question's script |
| `asked_at` | time of asking, UTC |
| `sender`, `context[].sender` | members as letters, in order of appearance within a record; the same letter in two records is not the same person |
| `question`, `context[].text` | texts; phone numbers, e-mail addresses, identity numbers, keys and passwords are masked |
| `label` | what labellers agreed on: `yes` (needs the conversation), `no` (stands alone), `not_question`; null: nobody has labelled it |
| `label_rewrite` | the question as a labeller wrote it to stand alone, or null |
| `probability`, `needs_resolution`, `model` | the newest verdict of a gate model: probability that the question needs the conversation, decision, model; null: not judged |
| `rewrite` | the rewrite of the bot that it accepted, or null |

{rows} rows, {labelled} of them labelled ({labels}). Members who do not want to be collected are absent.

Texts of real groups belong to who wrote them: ask before you pass them on.
"""


def dataset_row(record: Mapping[str, Any], logged: Logged) -> dict[str, Any]:
    """One row: the exported ``record`` of ``logged`` with the labeller's rewrite."""
    label = logged.label
    return {
        "id": record["id"],
        "lang": language_of(record["question"]),
        "asked_at": datetime.fromisoformat(record["asked_at"]),
        "sender": record["sender"],
        "question": record["question"],
        "context": record["context"],
        "label": record["label"],
        "label_rewrite": mask(label.rewrite) if label is not None and label.rewrite else None,
        "probability": record["probability"],
        "needs_resolution": record["needs_resolution"],
        "model": record["model"],
        "rewrite": record["rewrite"],
    }


class DatasetFolder:
    """Writes rows into a folder that appears under its name when it is complete. A context manager; an exception inside leaves what stood there before."""

    def __init__(self, out: Path) -> None:
        self._out, self._partial = out, out.with_name(f".{out.name}.partial")
        self._rows: list[dict[str, Any]] = []
        self._written = 0
        self._labels: Counter[str] = Counter()
        self._languages: set[str] = set()

    def __enter__(self) -> Self:
        """Raises InputError where ``out`` is something else than such a folder, or pyarrow is missing; OSError where it cannot be written."""
        _refuse_foreign(self._out)
        try:
            import pyarrow as arrow
            import pyarrow.parquet as parquet
        except ImportError:
            raise InputError("--format hf", "pyarrow is not installed", "pip install 'doujie[datasets]'") from None
        text = arrow.string()
        line = arrow.struct([("sender", text), ("text", text)])
        kinds = {"asked_at": arrow.timestamp("us", tz="UTC"), "context": arrow.list_(line), "probability": arrow.float64(), "needs_resolution": arrow.bool_()}
        names = ["id", "lang", "asked_at", "sender", "question", "context", "label", "label_rewrite", "probability", "needs_resolution", "model", "rewrite"]
        self._schema = arrow.schema([(name, kinds.get(name, text)) for name in names])
        self._table = arrow.Table
        shutil.rmtree(self._partial, ignore_errors=True)
        (self._partial / _DATA).parent.mkdir(parents=True)
        self._writer = parquet.ParquetWriter(self._partial / _DATA, self._schema)
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Append a row of :func:`dataset_row`."""
        self._rows.append(row)
        self._languages.add(row["lang"])
        if row["label"] is not None:
            self._labels[row["label"]] += 1
        if len(self._rows) == _ROWS:
            self._flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                (self._partial / "README.md").write_text(self._card(), encoding="utf-8")
                _refuse_foreign(self._out)
                shutil.rmtree(self._out, ignore_errors=True)
                self._partial.rename(self._out)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
            self._written += len(self._rows)
            self._rows = []

    def _card(self) -> str:
        labels = ", ".join(f"{count} {label}" for label, count in sorted(self._labels.items())) or "none"
        size = next((name for limit, name in _SIZES if self._written < limit), "n>1M")
        languages = "\n".join(f"- {language}" for language in sorted(self._languages) or ["zh"])
        return _CARD.format(languages=languages, size=size, mark=MARK, rows=self._written, labelled=self._labels.total(), labels=labels)


def _refuse_foreign(out: Path) -> None:
    """Raises InputError for what a dataset must not replace: a file, or a folder that is not an earlier export."""
    card = out / "README.md"
    if out.is_dir() and (not any(out.iterdir()) or (card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace"))):
        return
    if out.exists():
        raise InputError(str(out), "stands there already and is no exported dataset", "Name another folder; an earlier export is replaced.")
