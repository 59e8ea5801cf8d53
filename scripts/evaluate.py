"""``python -m scripts.evaluate DATA.jsonl...``: measure gate, rewriting, question filter, merging, context selection, or whole group windows, by the form of each file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from core.config import Config, load_config
from core.errors import DoujieError, InputError
from scripts.evaluation.forms import read_file
from scripts.evaluation.report import show
from scripts.evaluation.results import Models, Result
from scripts.evaluation.run import Job, jobs_of, require_models, run_job

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_UNDER_TEST = "of the gate; where all files measure rewriting alone, of the resolver"


@app.command()
def main(
    files: Annotated[list[Path], typer.Argument(metavar="DATA.jsonl...", help="Labelled files; the form of each is recognised from its fields.")],
    config: Annotated[Path | None, typer.Option(help="Config file; without it the defaults.")] = None,
    backend: Annotated[str | None, typer.Option(help=f"Back end {_UNDER_TEST}.")] = None,
    model: Annotated[str | None, typer.Option(help=f"Model {_UNDER_TEST}.")] = None,
    adapter: Annotated[str | None, typer.Option(help=f"Adapter {_UNDER_TEST}: a path, 'shipped', or 'none' for the bare model.")] = None,
    resolver_backend: Annotated[str | None, typer.Option(help="Back end of the resolver.")] = None,
    resolver_model: Annotated[str | None, typer.Option(help="Model of the resolver.")] = None,
    resolver_adapter: Annotated[str | None, typer.Option(help="Adapter of the resolver.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks of what the files hold, such as gate or rewrite; may be given several times.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N records of each file.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Draw reliability diagram and acceptance curve into this folder.")] = None,
) -> None:
    """Measure on labelled files. Tables go to stdout, progress to stderr."""
    try:
        jobs = _wanted([job for path in files for job in jobs_of(read_file(path, limit))], task or ())
        given = {"backend": backend, "model": model, "adapter": adapter}
        given_resolver = {"backend": resolver_backend, "model": resolver_model, "adapter": resolver_adapter}
        settings = load_config(config, **_overrides(jobs, given, given_resolver))
        results = asyncio.run(_evaluate(jobs, settings))
        if json_ is not None:
            _write(json_, jobs, results)
        if plots is not None:
            from scripts.evaluation.plots import draw

            for picture in draw([job.data.path.stem for job in jobs], results, plots):
                typer.echo(f"plot: {picture}")
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None


def _wanted(jobs: Sequence[Job], tasks: Sequence[str]) -> list[Job]:
    """The jobs of these tasks; all without any. Raises InputError for a task that no file holds."""
    there = list(dict.fromkeys(job.task for job in jobs))
    for task in tasks:
        if task not in there:
            raise InputError("--task", f"no file measures {task!r}", f"These files measure: {', '.join(there)}.")
    return [job for job in jobs if not tasks or job.task in tasks]


def _overrides(jobs: Sequence[Job], given: Mapping[str, str | None], given_resolver: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
    """Options as overrides of the config. ``given`` names what is under test, see the help of the options."""
    under_test = {key: value for key, value in given.items() if value is not None}
    resolver = {key: value for key, value in given_resolver.items() if value is not None}
    if {job.task for job in jobs if job.needs_models} == {"rewrite"}:
        return {"resolver": {**under_test, **resolver}}
    return {"gate": under_test, "resolver": resolver}


async def _evaluate(jobs: Sequence[Job], config: Config) -> list[Result]:
    if not any(job.needs_models for job in jobs):
        return await _run(jobs, None, config)
    from core.gates.factory import open_models

    with Console(stderr=True).status("loading the model"):
        models = await open_models(config)
    try:
        require_models(jobs, models)
        return await _run(jobs, models, config)
    finally:
        await models.close()


async def _run(jobs: Sequence[Job], models: Models | None, config: Config) -> list[Result]:
    results = []
    output = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    for job in jobs:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task(f"{job.data.path.name} · {job.task}", total=job.steps)
            result = await run_job(job, models, config, lambda steps, bar=bar, progress=progress: progress.advance(bar, steps))  # type: ignore[misc]
        show(output, str(job.data.path), result)
        results.append(result)
    return results


def _write(path: Path, jobs: Sequence[Job], results: Sequence[Result]) -> None:
    document = {"files": [result.as_dict(str(job.data.path)) for job, result in zip(jobs, results, strict=True)]}
    try:
        path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}", "Check the folder and its permissions.") from None


if __name__ == "__main__":
    app()
