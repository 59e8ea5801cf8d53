"""Versioned snapshots of the labels: a folder ``labels-2026-11-22`` with ``labels.jsonl`` and ``manifest.json``, never changed once it is written.

What counts for a question is the consensus of its labellers (:func:`storage.labels.consensus`). Texts are masked, members are letters, and what members had erased is not in it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from core.errors import InputError
from core.records import json_line, labelled_record
from storage.engine import Database
from storage.questions import SqlQuestionLog

LABELS, MANIFEST = "labels.jsonl", "manifest.json"
FORMAT = 1
_NAME = re.compile(r"labels-(\d{4}-\d{2}-\d{2})(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Stale:
    """An earlier snapshot that still holds what members have had erased since. ``questions``: those that are gone, or lost lines of their context."""

    folder: Path
    questions: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``fresh``: written now; else the day's snapshot holds the same labels already."""

    folder: Path
    manifest: dict[str, Any]
    fresh: bool
    stale: tuple[Stale, ...] = ()


async def take_snapshot(database: Database, out: Path, timezone: str) -> Snapshot:
    """Write all labelled questions into a new folder in ``out``, named by the date in ``timezone``. Raises InputError where that cannot be, and StorageError."""
    records = [record async for logged in SqlQuestionLog(database).export_rows(labelled=True) if (record := labelled_record(logged)) is not None]
    now = database.now()
    earlier = snapshots_in(out)
    content = "".join(map(json_line, records)).encode()
    previous = earlier[-1] if earlier else None
    before = {} if previous is None else {str(record["id"]): record for record in read_labels(previous)}
    day = now.astimezone(ZoneInfo(timezone)).date().isoformat()
    stale = await _stale(database, earlier)
    if previous is not None and previous.name.startswith(f"labels-{day}") and (previous / LABELS).read_bytes() == content:
        return Snapshot(previous, _manifest_of(previous), False, stale)
    folder = _free_name(out, day)
    manifest = {
        "format": FORMAT,
        "name": folder.name,
        "taken_at": now.isoformat(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "questions": len(records),
        "labels": dict(Counter(record["label"] for record in records)),
        "languages": dict(Counter(record["lang"] for record in records)),
        "rewrites": sum(record["rewrite"] is not None for record in records),
        "previous": None if previous is None else _reference(previous),
        "changes": _changes(before, {record["id"]: record for record in records}),
    }
    _write(folder, content, manifest)
    return Snapshot(folder, manifest, True, stale)


def snapshots_in(out: Path) -> list[Path]:
    """The snapshots in a folder, oldest first."""
    found = [(match, path) for path in (out.iterdir() if out.is_dir() else ()) if (match := _NAME.fullmatch(path.name)) and (path / MANIFEST).is_file()]
    return [path for _, path in sorted(found, key=lambda one: (one[0][1], int(one[0][2] or 1)))]


def read_labels(folder: Path) -> list[dict[str, Any]]:
    """The records of a snapshot. Raises InputError that names file and line."""
    path = folder / LABELS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(str(path), f"cannot be read ({error})") from None
    return [_record(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(line)
        record["id"]
        return record
    except (json.JSONDecodeError, KeyError, TypeError):
        raise _unusable(where, "is no labelled question") from None


def _manifest_of(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest["sha256"]
        return manifest
    except (OSError, ValueError, KeyError, TypeError):
        raise _unusable(str(folder / MANIFEST), "cannot be read as the manifest of a snapshot") from None


def _unusable(what: str, problem: str) -> InputError:
    return InputError(what, problem, "Snapshots are not to be edited: restore this one from a backup, or move its folder away.")


def _reference(folder: Path) -> dict[str, Any]:
    """Which snapshot the changes are counted from; ``intact``: its labels are as they were written."""
    digest = _manifest_of(folder)["sha256"]
    return {"name": folder.name, "sha256": digest, "intact": hashlib.sha256((folder / LABELS).read_bytes()).hexdigest() == digest}


def _changes(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> dict[str, Any]:
    changed = [(key, [name for name in now[key] if now[key][name] != before[key].get(name)]) for key in now if key in before]
    return {
        "added": [key for key in now if key not in before],
        "changed": [{"id": key, "fields": fields} for key, fields in changed if fields],
        "removed": [key for key in before if key not in now],
    }


async def _stale(database: Database, folders: Iterable[Path]) -> tuple[Stale, ...]:
    found = []
    for folder in folders:
        lines = {str(record["id"]): len(record.get("context") or ()) for record in read_labels(folder)}
        logged = await SqlQuestionLog(database).get_many(list(lines))
        erased = sum(key not in logged or count > len(logged[key].question.context) for key, count in lines.items())
        if erased:
            found.append(Stale(folder, erased))
    return tuple(found)


def _free_name(out: Path, day: str) -> Path:
    names: Sequence[str] = [f"labels-{day}", *(f"labels-{day}.{number}" for number in range(2, 1000))]
    return next(path for name in names if not (path := out / name).exists())


def _write(folder: Path, content: bytes, manifest: dict[str, Any]) -> None:
    """All or nothing: the folder appears when both files are complete."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / LABELS).write_bytes(content)
        (partial / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        partial.rename(folder)
    except OSError as error:
        raise InputError(str(folder), f"cannot be written: {error.strerror}", "Check the folder, its permissions and the space left.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def describe(manifest: dict[str, Any]) -> str:
    """One line for people."""
    changes, previous = manifest["changes"], manifest["previous"]
    labels = ", ".join(f"{count} {label}" for label, count in sorted(manifest["labels"].items()))
    counted = f"{len(changes['added'])} added, {len(changes['changed'])} changed, {len(changes['removed'])} removed"
    since = f"since {previous['name']}: {counted}" if previous else "the first snapshot here"
    return f"{manifest['questions']} questions ({labels or 'no labels'}); {since}; sha256 {manifest['sha256'][:16]}"
