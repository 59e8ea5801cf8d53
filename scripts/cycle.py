"""``python -m scripts.cycle run|promote|rollback|status|check``: retrain the gate from the labels, and let the new one serve when it is better; go back with one command."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from core.config import Config, load_config
from core.errors import InputError
from core.logs import configure_logs, secrets_of
from scripts.arguments import one_line_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Config file; without it the defaults.")]
TestOption = Annotated[Path | None, typer.Option("--test", help="Frozen test set; default: \\[relabel] test_set.")]
LeastOption = Annotated[int | None, typer.Option("--min-test", min=2, help="Labelled questions that a test set must hold; default 100.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")]


@app.callback()
def main(context: typer.Context, config: ConfigOption = None) -> None:
    """Retrain the gate from the labels and let the new one serve when it is better."""
    context.obj = config


@app.command()
def run(
    context: typer.Context,
    config: ConfigOption = None,
    test: TestOption = None,
    snapshot: Annotated[Path | None, typer.Option(help="Snapshot folder, or a JSON Lines file of labels; default: a new snapshot of the database.")] = None,
    data: Annotated[list[Path] | None, typer.Option(help="More training data, such as examples/windows/base.jsonl. May be given several times.")] = None,
    promote_better: Annotated[bool, typer.Option("--promote/--no-promote", help="Let the new one serve when it is better.")] = True,
    min_test: LeastOption = None,
    preset: Annotated[str, typer.Option(help="Preset of the training: default or smoke.")] = "default",
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many optimizer steps; 0: never.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    batch: Annotated[int | None, typer.Option(help="Examples in a micro-batch.")] = None,
    validation: Annotated[float, typer.Option(help="Share kept for validation and calibration.")] = 0.2,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the training; 0: torch's choice.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of training and bootstrap.")] = 1,
    low_priority: Annotated[bool, typer.Option("--low-priority", help="Leave the processor to everything else.")] = False,
    json_: JsonOption = None,
) -> None:
    """Snapshot, train, compare with what serves on the frozen test set, promote if better beyond noise."""

    def work(settings: Config, on_step: Any) -> Coroutine[Any, Any, Any]:
        _need_training()
        from scripts.retraining.cycle import CycleSettings, run_cycle
        from scripts.training.settings import override
        from scripts.training.settings import preset as preset_of

        values = {"epochs": epochs, "max_steps": max_steps, "learning_rate": lr, "rank": rank, "batch_size": batch, "validation": validation, "threads": threads, "seed": seed}
        chosen = CycleSettings(override(preset_of(preset), values), snapshot, tuple(data or ()), test, promote=promote_better, seed=seed)
        chosen.train.check()
        return run_cycle(settings, chosen if min_test is None else replace(chosen, least_test_items=min_test), on_step)

    if low_priority:
        os.nice(19)
    _do(config or context.obj, work, json_)


@app.command()
def promote(
    context: typer.Context,
    version: Annotated[int | None, typer.Argument(help="Number of the version; default: the newest.")] = None,
    config: ConfigOption = None,
    test: TestOption = None,
    min_test: LeastOption = None,
    force: Annotated[bool, typer.Option("--force", help="Without a comparison.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 1,
    json_: JsonOption = None,
) -> None:
    """Let a version of the registry serve, when it is better than what serves."""

    def work(settings: Config, on_step: Any) -> Coroutine[Any, Any, Any]:
        from scripts.retraining.cycle import CycleSettings
        from scripts.retraining.cycle import promote as promote_version

        chosen = CycleSettings(test=test, seed=seed)
        return promote_version(version, settings, chosen if min_test is None else replace(chosen, least_test_items=min_test), force=force, on_step=on_step)

    _do(config or context.obj, work, json_)


@app.command()
def rollback(context: typer.Context, config: ConfigOption = None) -> None:
    """Let the version serve again that served before."""
    with one_line_errors():
        from scripts.retraining.cycle import registry_of

        registry = registry_of(_config(config or context.obj))
        with registry.locked():
            before, now = registry.current(), registry.rollback()
        typer.echo(f"version {before.version} is taken back, {_name(now.version)} serves; running bots take it over within seconds.")


@app.command()
def check(context: typer.Context, config: ConfigOption = None) -> None:
    """Whether a turn could run: what it would use, or what is missing."""
    with one_line_errors():
        _need_training()
        from scripts.retraining.cycle import CycleSettings, what_a_turn_needs

        typer.echo(what_a_turn_needs(_config(config or context.obj), CycleSettings()))


@app.command()
def status(context: typer.Context, config: ConfigOption = None) -> None:
    """Which version serves, and which there are."""
    with one_line_errors():
        from scripts.retraining.cycle import registry_of
        from scripts.retraining.trial import trials_of

        registry = registry_of(_config(config or context.obj))
        current, trials = registry.current(), trials_of(registry)
        typer.echo(f"{registry.folder}: {_name(current.version)} serves" + (f" since {current.promoted_at}" if current.promoted_at else ""))
        for number in registry.numbers():
            try:
                version = registry.open(number)
                made = f"made {version.created_at} on {version.base} from {version.about.get('examples', '?')} examples"
            except InputError as error:
                made = f"cannot serve: {error.problem}"
            trial = trials.get(number)
            tried = f"; F1 {trial['candidate']['f1']:.3f} against {trial['serving']['f1']:.3f}: {trial['decision']}" if trial else ""
            mark = "serves " if number == current.version else "before " if number in current.history else "       "
            typer.echo(f"{mark}{number:04d}  {made}{tried}")


def _do(config: Path | None, work: Callable[[Config, Any], Coroutine[Any, Any, Any]], json_: Path | None) -> None:
    """Run ``work`` under a progress bar and tell its report: a line for people, then one of JSON."""
    with one_line_errors():
        settings = _config(config)
        with Progress(*_COLUMNS, console=Console(stderr=True), transient=True) as progress:
            bars: dict[str, Any] = {}

            def on_step(step: str, done: int, total: int | None) -> None:
                if step not in bars:
                    bars[step] = progress.add_task(step, total=total)
                progress.update(bars[step], completed=done, total=total)

            report = asyncio.run(work(settings, on_step))
        told = report.told() if report.trial is not None or report.decision == "nothing new" else f"version {report.version} serves, without a comparison."
        typer.echo(told)
        text = json.dumps(report.as_dict())
        typer.echo(text)
        if json_ is not None:
            try:
                json_.write_text(text + "\n", encoding="utf-8")
            except OSError as error:
                raise InputError(str(json_), f"cannot be written: {error.strerror}", "Check the folder and its permissions.") from None


def _config(path: Path | None) -> Config:
    settings = load_config(path)
    configure_logs(settings.bot.log_level, settings.bot.log_format, secrets_of(settings))
    return settings


def _need_training() -> None:
    missing = [name for name in ("torch", "transformers", "peft", "gguf", "safetensors", "sklearn") if find_spec(name) is None]
    if missing:
        raise InputError("training", f"not installed: {', '.join(missing)}", 'pip install "doujie[train]"')


def _name(version: int) -> str:
    return "what comes with doujie" if version == 0 else f"version {version}"


if __name__ == "__main__":
    app()
