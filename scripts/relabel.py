"""``python -m scripts.relabel``: judge logged questions again with another model, adapter or prompt, say what flipped, and queue what deserves a human eye.

Every verdict is kept beside the earlier ones; what the bot did in its groups stays as it was. Exports and the labelling page show the newest verdict.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from core.config import Config, load_config
from core.errors import DoujieError, InputError
from core.logs import configure_logs, secrets_of
from core.messages import Verdict
from core.privacy import mask
from core.relabel import Judged, Relabeller, RelabelReport, open_relabel_models
from scripts.arguments import parse_time
from storage.engine import open_database
from storage.review_filling import Filled, fill_review_queue
from storage.verdicts import SqlVerdicts

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_ALL = 2**31 - 1
_SHOWN = 20
_AS_CONFIGURED = "without it that of \\[relabel], or else the serving gate's."


@app.command()
def main(
    config: Annotated[Path | None, typer.Option(help="Config file; without it the defaults.")] = None,
    since: Annotated[str | None, typer.Option(help="Only questions asked at this time (ISO-8601; without a zone UTC) or later; without it \\[relabel] days back.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Judge at most so many questions, the newest first; without it all.")] = None,
    backend: Annotated[str | None, typer.Option(help=f"Back end: auto, llama_cpp, transformers or openai; {_AS_CONFIGURED}")] = None,
    model: Annotated[str | None, typer.Option(help=f"Model: a GGUF file, a folder, or a server's name for it; {_AS_CONFIGURED}")] = None,
    adapter: Annotated[str | None, typer.Option(help=f"Adapter: a GGUF file, a peft folder, 'shipped' or 'none'; {_AS_CONFIGURED}")] = None,
    base_url: Annotated[str | None, typer.Option(help=f"OpenAI-compatible server; {_AS_CONFIGURED}")] = None,
    prompt: Annotated[str | None, typer.Option(help=f"Prompt version; {_AS_CONFIGURED}")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the report to this file, with the (masked) texts of what flipped.")] = None,
) -> None:
    """Judge logged questions again."""
    given = {"backend": backend, "model": model, "adapter": adapter, "base_url": base_url, "prompt": prompt}
    try:
        settings = load_config(config, relabel={key: value for key, value in given.items() if value is not None})
        configure_logs(settings.bot.log_level, settings.bot.log_format, secrets_of(settings))
        report, filled = asyncio.run(relabel(settings, parse_time(since, "--since") if since else None, limit or _ALL))
        show(Console(), report, filled)
        if json_ is not None:
            _write(json_, report_document(report, filled))
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    if report.stopped:
        typer.echo(f"stopped: {report.stopped}. What was judged is kept; the same command goes on with the rest.", err=True)
        raise typer.Exit(1)


async def relabel(config: Config, since: datetime | None, limit: int) -> tuple[RelabelReport, Filled]:
    """Judge, then fill the review queue. Raises ConfigError, StorageError."""
    database = await open_database(config.storage.url)
    try:
        since = since or database.now() - timedelta(days=config.relabel.days)
        console = Console(stderr=True)
        with console.status("loading the model"):
            models = await open_relabel_models(config)
        try:
            assert models.gate is not None
            for note in models.notes:
                typer.echo(note, err=True)
            columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            with Progress(*columns, console=console, transient=True) as progress:
                bar = progress.add_task("", total=None)
                judging = Relabeller(models.gate, SqlVerdicts(database))
                report = await judging.run(since, limit, lambda done, total: progress.update(bar, completed=done, total=total))
        finally:
            await models.close()
        return report, await fill_review_queue(database, since, config.relabel.queue_size)
    finally:
        await database.close()


def report_document(report: RelabelReport, filled: Filled) -> dict[str, Any]:
    """The report as JSON. Probabilities and thresholds in 0..1; texts are masked."""
    return {
        "began_at": report.began_at.isoformat(),
        "seconds": round(report.seconds, 3),
        "gate": [{"model": version.model, "adapter": version.adapter, "prompt_version": version.prompt_version} for version in sorted(report.versions)],
        "questions": {name: getattr(report, name) for name in ("chosen", "judged", "judged_first", "failed", "erased")},
        "stopped": report.stopped,
        "flips": {"to_yes": [_flip(one) for one in report.to_yes], "to_no": [_flip(one) for one in report.to_no]},
        "versions": [
            {"model": version.model, "adapter": version.adapter, "prompt_version": version.prompt_version, "stage": stage, "judged": judged, "needs_resolution": needing}
            for (version, stage), (judged, needing) in sorted(report.counts.items())
        ],
        "queue": {"added": filled.added, "size": filled.size, "duplicates": filled.duplicates, "reasons": {reason.value: count for reason, count in filled.reasons.items()}},
    }


def _flip(one: Judged) -> dict[str, Any]:
    assert one.before is not None
    return {"id": one.question.id, "question": mask(one.question.text), "before": _verdict(one.before), "after": _verdict(one.after)}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in ("probability", "threshold", "model", "adapter", "prompt_version", "stage")}


def show(console: Console, report: RelabelReport, filled: Filled) -> None:
    """The report for people. Ids and figures only: texts stand in the JSON file and on the labelling page."""
    console.print(f"{report.summary} ({report.seconds:.1f} s)", highlight=False)
    table = Table("judged by", "stage", "questions", "needs resolution")
    for (version, stage), (judged, needing) in sorted(report.counts.items()):
        table.add_row(str(version), stage, str(judged), str(needing))
    if report.counts:
        console.print(table)
    for name, flips in (("now yes", report.to_yes), ("now no", report.to_no)):
        _show_flips(console, name, flips)
    reasons = ", ".join(f"{reason.value} {count}" for reason, count in filled.reasons.items())
    console.print(f"review queue: {filled.size} ({filled.added} new{f'; {reasons}' if reasons else ''}); {filled.duplicates} like others left out", highlight=False)


def _show_flips(console: Console, name: str, flips: Sequence[Judged]) -> None:
    if not flips:
        return
    table = Table(Column(name, overflow="fold"), "before", "after", Column("judged before by", overflow="fold"))
    for one in flips[:_SHOWN]:
        assert one.before is not None
        table.add_row(one.question.id, f"{one.before.probability:.3f}", f"{one.after.probability:.3f}", str(one.before.version))
    console.print(table)
    if len(flips) > _SHOWN:
        console.print(f"and {len(flips) - _SHOWN} more; --json writes all")


def _write(path: Path, document: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}", "Check the folder and its permissions.") from None


if __name__ == "__main__":
    app()
