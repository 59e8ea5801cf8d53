"""``python -m scripts.scaling MODEL... --data LABELS``: do the labels hold? Models of growing size on the same labels, and the items that the bigger ones contradict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from core.config import Config, load_config
from core.errors import DoujieError, InputError
from scripts.evaluation.gate import trivial_baselines
from scripts.resampling import METRICS, RESAMPLES
from scripts.scaling_law.items import Item, read_items
from scripts.scaling_law.judging import CACHE, Judgement, JudgementCache, judge
from scripts.scaling_law.law import make_series, measure
from scripts.scaling_law.report import ScalingResult, as_json, make_page, verdict
from scripts.scaling_law.specs import Axis, ModelSpec, axis_label, parse_models
from scripts.scaling_law.suspects import find_doubts

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())


@app.command()
def main(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="NAME=PATH[@ADAPTER], NAME=packaged[@shipped], or NAME:14B=openai:URL#MODEL; the size is read from the file, or given: NAME:270M=..."
        ),
    ],
    data: Annotated[list[Path], typer.Option(help="Labels: a snapshot folder, exported lines, questions with labels, or group windows. May be given several times.")],
    out: Annotated[Path, typer.Option(help="Folder of report.html, scaling.json, suspects.jsonl, and of the judgements that a later run takes up.")] = Path("scaling-out"),
    axis: Annotated[Axis, typer.Option(help="What grows: the size of the models, or the data that they were trained on (NAME:1/8=PATH@ADAPTER).")] = Axis.SIZE,
    trained: Annotated[list[str] | None, typer.Option(help="NAME of a fully fine-tuned model; those with an adapter are known to be trained.")] = None,
    judge_: Annotated[list[str] | None, typer.Option("--judge", help="NAME of a model whose word counts against a label; default: the bigger half of those that can tell.")] = None,
    prompt: Annotated[str, typer.Option(help="Prompt version for all models; default: the one that belongs to each.")] = "",
    config: Annotated[Path | None, typer.Option(help="Config file: key, threads and lengths of \\[gate]; the database of --queue.")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Put the suspect labels into the review queue of the database of --config.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N records of each file.")] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of the bootstrap.")] = RESAMPLES,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 1,
) -> None:
    """Check labels by the scaling law. Figures go to stdout, progress to stderr."""
    try:
        _need_libraries()
        if queue and config is None:
            raise InputError("--queue", "needs --config", "The review queue is in the database that the config names.")
        settings = load_config(config)
        specs, items = parse_models(models, axis, trained or ()), read_items(data, limit)
        judgements = asyncio.run(_judge_all(specs, items, out, settings, prompt))
        truth = [item.needs_resolution for item in items]
        series = make_series(measure(judgements, truth, resamples, seed))
        doubts = find_doubts(items, series, judge_ or ())
        baselines = trivial_baselines(truth, [item.question.text for item in items])
        result = ScalingResult(axis, items, series, doubts, baselines, resamples, seed)
        _write(result, out)
        _show(result)
        if queue:
            _queue(result, settings)
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None


def _need_libraries() -> None:
    """Said before the models work for an hour, not after. Raises InputError."""
    missing = [name for name in ("matplotlib", "scipy") if find_spec(name) is None]
    if missing:
        raise InputError("scripts.scaling", f"not installed: {', '.join(missing)}", 'pip install "doujie[loop]"')


async def _judge_all(specs: Sequence[ModelSpec], items: Sequence[Item], out: Path, config: Config, prompt: str) -> list[Judgement]:
    cache = JudgementCache(out / CACHE)
    judgements = []
    with Progress(*_COLUMNS, console=Console(stderr=True), transient=True) as progress:
        for spec in specs:
            bar = progress.add_task(spec.name, total=len(items))
            judgements.append(await judge(spec, items, cache, config, prompt, lambda done, bar=bar: progress.advance(bar, done)))  # type: ignore[misc]
    return judgements


def _write(result: ScalingResult, out: Path) -> None:
    from scripts.reporting.page import write_page

    suspects = "".join(json.dumps(suspect.as_dict(), ensure_ascii=False) + "\n" for suspect in result.doubts.suspects)
    try:
        (out / "suspects.jsonl").write_text(suspects, encoding="utf-8")
        (out / "scaling.json").write_text(json.dumps(as_json(result), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(str(out), f"cannot be written: {error.strerror}", "Give another --out.") from None
    write_page(make_page(result), out / "report.html")
    typer.echo(f"report: {out / 'report.html'}", err=True)


def _show(result: ScalingResult) -> None:
    for model in result.models:
        shown: dict[str, Any] = {metric: model.estimates[metric].value for metric in METRICS}
        figures = "  ".join(f"{metric} {value:.3f}" if value is not None else f"{metric} -" for metric, value in shown.items())
        typer.echo(f"{model.name:<16} {axis_label(model.size, result.axis):>10}  {figures}  threshold {model.judgement.threshold:.3g} ({model.judgement.threshold_from})")
    for sentence in verdict(result)[0]:
        typer.echo(sentence)
    doubts = result.doubts
    typer.echo(doubts.note or f"{len(doubts.suspects)} of {len(result.items)} labels are contradicted by {', '.join(doubts.judges)}.")
    for pattern in doubts.patterns:
        if pattern.suspect:
            typer.echo(f"suspect pattern: {pattern.grouping} = {pattern.group}: {pattern.suspects} of {pattern.items} (p {pattern.p:.2g})")


def _queue(result: ScalingResult, config: Config) -> None:
    from scripts.scaling_law.queueing import queue_suspects

    queued, unknown = asyncio.run(queue_suspects(result.doubts.suspects, config.storage.url, len(result.doubts.judges)))
    elsewhere = f"; {unknown} are not in this database, import their file first" if unknown else ""
    typer.echo(f"queued for labelling: {queued}{elsewhere}")


if __name__ == "__main__":
    app()
