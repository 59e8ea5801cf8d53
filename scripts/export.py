"""``python -m scripts.export``: logged questions as JSON lines, alpaca training records, label-studio tasks or a Hugging Face dataset.

Members are letters; phone numbers, keys and the like are masked. The verdict is the newest, the label what labellers agreed on, the rewrite what the bot made in the group.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from core.config import Config, load_config
from core.errors import DoujieError, InputError
from core.records import json_line
from scripts.arguments import parse_time
from scripts.exchange.dataset_folder import DatasetFolder
from scripts.exporting import ExportFormat, export_entry
from storage.engine import open_database
from storage.questions import SqlQuestionLog

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    form: Annotated[
        ExportFormat, typer.Option("--format", help="jsonl: all fields; alpaca: labelled questions for training; label-studio: tasks with predictions; hf: a Hugging Face dataset.")
    ],
    out: Annotated[Path, typer.Option(help="File (hf: folder) to write; replaced when the export is complete.")],
    config: Annotated[Path | None, typer.Option(help="Config file; without it the defaults.")] = None,
    since: Annotated[str | None, typer.Option(help="Only questions asked at this time (ISO-8601; without a zone UTC) or later.")] = None,
    labelled: Annotated[bool, typer.Option("--labelled", help="Only questions with a label.")] = False,
) -> None:
    """Write logged questions to a file."""
    try:
        written, skipped = asyncio.run(export(load_config(config), form, out, parse_time(since, "--since") if since else None, labelled))
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    typer.echo(f"{written} questions written to {out}" + (f"; {skipped} left out: they have no label yes or no" if skipped else ""), err=True)


async def export(config: Config, form: ExportFormat, out: Path, since: datetime | None, labelled: bool) -> tuple[int, int]:
    """Write the questions, in order of asking, and return how many were written and how many the form cannot hold.

    :raises InputError: when ``out`` cannot be written; what stood there before stays.
    :raises StorageError: when the database cannot be used.
    """
    if not out.name:
        raise InputError(f"--out {out}", "is the folder that you are in, or the root of the disk", "Name a file (hf: a folder) in it.")
    database = await open_database(config.storage.url)
    try:
        with _target(form, out) as add, Console(stderr=True).status("exporting") as status:
            written = skipped = 0
            async for logged in SqlQuestionLog(database).export_rows(since=since, labelled=labelled):
                entry = export_entry(logged, form)
                if entry is None:
                    skipped += 1
                    continue
                add(entry)
                written += 1
                if written % 500 == 0:
                    status.update(f"{written} questions")
    except OSError as error:
        raise InputError(str(out), f"cannot be written: {error.strerror}", "Check the folder, its permissions and the space left.") from None
    finally:
        await database.close()
    return written, skipped


@contextmanager
def _target(form: ExportFormat, out: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What takes the entries. The file appears under its name when all are in it."""
    if form is ExportFormat.HF:
        with DatasetFolder(out) as folder:
            yield folder.add
        return
    partial = out.with_name(f".{out.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield from _lines(file, form is ExportFormat.JSONL)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _lines(file: TextIO, as_lines: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """JSON Lines, or one JSON array."""
    before = "" if as_lines else "[\n"

    def add(entry: dict[str, Any]) -> None:
        nonlocal before
        file.write(json_line(entry) if as_lines else before + json.dumps(entry, ensure_ascii=False))
        before = "" if as_lines else ",\n"

    yield add
    if not as_lines:
        file.write("[]\n" if before == "[\n" else "\n]\n")


if __name__ == "__main__":
    app()
