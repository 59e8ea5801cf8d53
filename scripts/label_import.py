"""``python -m scripts.label_import FILE...``: labels that were given elsewhere (Label Studio, an edited export) into the database, matched by the question's id."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from core.config import Config, load_config
from core.errors import DoujieError, InputError
from core.records import question_record
from scripts.exchange.reading import GivenLabel, ImportFormat, ReadFile, read_labels
from scripts.exporting import alpaca_instruction
from storage.engine import Database, open_database
from storage.labels import Label, SqlLabels
from storage.questions import SqlQuestionLog
from storage.review_queue import SqlReviewQueue

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_TOLD = 20
_TOGETHER = 500


@dataclass(slots=True)
class Imported:
    """``known``: given by this labeller before; ``unknown``: where the records stand whose question is not in the log."""

    stored: int = 0
    known: int = 0
    unknown: list[str] = field(default_factory=list)


@app.command()
def main(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSON or JSON Lines.")],
    labeller: Annotated[str, typer.Option(help="Name of who gave these labels.")],
    form: Annotated[ImportFormat, typer.Option("--format", help="auto: told from the fields.")] = ImportFormat.AUTO,
    annotator: Annotated[str, typer.Option(help="Label Studio's number of one annotator: take only that one's labels.")] = "",
    config: Annotated[Path | None, typer.Option(help="Config file; without it the defaults.")] = None,
) -> None:
    """Import labels. Broken records are named and left out; what was imported before is not stored twice."""
    try:
        labeller = labeller.strip()
        if not labeller or not labeller.isprintable():
            raise InputError("--labeller", "is empty or not printable", "Give the name of who labelled.")
        settings = load_config(config)
        read = [read_labels(path, form) for path in files]
        given = _by_one([label for one in read for label in one.labels], annotator)
        imported = asyncio.run(_import(settings, given, labeller))
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    _tell(read, imported)
    if any(one.broken for one in read):
        raise typer.Exit(2)


def _by_one(given: list[GivenLabel], annotator: str) -> list[GivenLabel]:
    """The labels of one annotator. Several under one name would hide that they disagree."""
    found = sorted({label.annotator for label in given if label.annotator})
    if annotator:
        if annotator not in found:
            raise InputError(f"--annotator {annotator}", "gave no label in these files", f"Annotators there: {', '.join(found) or 'none'}.")
        return [label for label in given if label.annotator == annotator]
    if len(found) > 1:
        raise InputError("these files", f"hold labels of {len(found)} annotators ({', '.join(found)})", "Import each under a name: --annotator NUMBER --labeller NAME.")
    return given


async def _import(config: Config, given: Sequence[GivenLabel], labeller: str) -> Imported:
    database = await open_database(config.storage.url)
    try:
        return await import_labels(database, given, labeller)
    finally:
        await database.close()


async def import_labels(database: Database, given: Sequence[GivenLabel], labeller: str) -> Imported:
    """Store labels in small transactions, beside a bot that writes to the same database. Labelled questions leave the review queue. Raises StorageError."""
    imported, log = Imported(), SqlQuestionLog(database)
    by_instruction = await _by_instruction(log) if any(label.instruction for label in given) else {}
    for start in range(0, len(given), _TOGETHER):
        await _store(database, given[start : start + _TOGETHER], labeller, by_instruction, imported)
    return imported


async def _by_instruction(log: SqlQuestionLog) -> dict[int, list[str]]:
    """Ids of questions by the hash of what their alpaca record asks, which alone tells them in such a file."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    async for logged in log.export_rows():
        found[hash(alpaca_instruction(question_record(logged))[0])].append(logged.question.id)
    return found


async def _store(database: Database, given: Sequence[GivenLabel], labeller: str, by_instruction: dict[int, list[str]], imported: Imported) -> None:
    wanted = [(one, key) for one in given for key in ([one.question_id] if one.question_id else by_instruction.get(hash(one.instruction), [""]))]
    logged = await SqlQuestionLog(database).get_many(list({key for _, key in wanted}))
    now = database.now()
    labels: list[Label] = []
    lines: list[int] = []
    for one, key in wanted:
        question = logged.get(key)
        if question is None:
            imported.unknown.append(one.where)
            continue
        own = one.rewrite if not one.exported_rewrite or one.rewrite != question_record(question)["rewrite"] else None
        labels.append(Label(key, labeller, one.label, min(one.at or now, now), own))
        lines.append(one.lines)
    stored = await SqlLabels(database).add_new(labels, lines)
    imported.stored += sum(stored)
    imported.known += len(stored) - sum(stored)
    await SqlReviewQueue(database).remove([label.question_id for label, new in zip(labels, stored, strict=True) if new])


def _tell(read: Sequence[ReadFile], imported: Imported) -> None:
    broken = [line for one in read for line in one.broken]
    _list(broken)
    _list([f"{where}: its question is not in the log (any more)" for where in imported.unknown])
    parts = [f"{imported.stored} labels stored", f"{imported.known} known already", f"{sum(one.unlabelled for one in read)} records without a label"]
    parts += [f"{len(imported.unknown)} of questions that are not in the log", f"{len(broken)} records broken and left out"]
    typer.echo(", ".join(parts), err=True)


def _list(lines: Sequence[str]) -> None:
    for line in lines[:_TOLD]:
        typer.echo(line, err=True)
    if len(lines) > _TOLD:
        typer.echo(f"and {len(lines) - _TOLD} more like these", err=True)


if __name__ == "__main__":
    app()
