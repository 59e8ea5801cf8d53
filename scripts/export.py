"""``python -m scripts.export``: logged questions as JSON lines, alpaca training records or label-studio tasks. Members are letters; phone numbers, keys and the like are masked."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from core.config import Config, load_config
from core.errors import DoujieError, InputError
from scripts.exporting import ExportFormat, export_entry
from storage.engine import open_database
from storage.questions import SqlQuestionLog

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    form: Annotated[ExportFormat, typer.Option("--format", help="jsonl: all fields; alpaca: labelled questions for training; label-studio: tasks with predictions.")],
    out: Annotated[Path, typer.Option(help="File to write; replaced when the export is complete.")],
    config: Annotated[Path | None, typer.Option(help="Config file; without it the defaults.")] = None,
    since: Annotated[str | None, typer.Option(help="Only questions asked at this time (ISO-8601; without a zone UTC) or later.")] = None,
    labelled: Annotated[bool, typer.Option("--labelled", help="Only questions with a label.")] = False,
) -> None:
    """Write logged questions to a file."""
    try:
        written, skipped = asyncio.run(export(load_config(config), form, out, _time(since), labelled))
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    typer.echo(f"{written} questions written to {out}" + (f"; {skipped} left out: they have no label yes or no" if skipped else ""), err=True)


async def export(config: Config, form: ExportFormat, out: Path, since: datetime | None, labelled: bool) -> tuple[int, int]:
    """Write the questions, in order of asking, and return how many were written and how many the form cannot hold.

    :raises InputError: when ``out`` cannot be written; what stood there before stays.
    :raises StorageError: when the database cannot be used.
    """
    written = skipped = 0
    partial = out.with_name(f".{out.name}.partial")
    database = await open_database(config.storage.url)
    try:
        with partial.open("w", encoding="utf-8") as file, Console(stderr=True).status("exporting") as status:
            as_lines = form is ExportFormat.JSONL
            async for logged in SqlQuestionLog(database).export_rows(since=since, labelled=labelled):
                entry = export_entry(logged, form)
                if entry is None:
                    skipped += 1
                    continue
                file.write("" if as_lines else (",\n" if written else "[\n"))
                file.write(json.dumps(entry, ensure_ascii=False) + ("\n" if as_lines else ""))
                written += 1
                if written % 500 == 0:
                    status.update(f"{written} questions")
            if not as_lines:
                file.write("\n]\n" if written else "[]\n")
        partial.replace(out)
    except OSError as error:
        raise InputError(str(out), f"cannot be written: {error.strerror}", "Check the folder, its permissions and the space left.") from None
    finally:
        partial.unlink(missing_ok=True)
        await database.close()
    return written, skipped


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"--since {text}", "is no time", "Give ISO-8601, for example 2026-03-01 or 2026-03-01T09:00:00+08:00.") from None


if __name__ == "__main__":
    app()
