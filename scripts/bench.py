"""Benchmarks: python -m scripts.bench [all|spine|gate|resolver|quantisation] [--json FILE].

Ratios of figures taken in one run are what to look at; absolute figures change with the machine and its mood.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.errors import InputError
from core.gates.factory import SHIPPED, UNTRAINED_PROMPT
from core.gates.packaged import model_path
from core.head import GateCalibration
from scripts.arguments import one_line_errors
from scripts.benchmarks.examples import Sample, read_sample
from scripts.benchmarks.gate import gate_batching, gate_latency
from scripts.benchmarks.load import chat_load
from scripts.benchmarks.plots import draw
from scripts.benchmarks.prompt_parts import PARTS, prompt_parts
from scripts.benchmarks.quantisation import FORMATS, quantisation, requantised
from scripts.benchmarks.report import TRAINED_ON, show
from scripts.benchmarks.resolver import resolver_parts
from scripts.benchmarks.side_by_side import side_by_side
from scripts.benchmarks.spine import bus_dispatch, durable_ingest, nonebot_dispatch, spine
from scripts.benchmarks.ways import open_ways

PUBLISHED_LOG = 58_000
"""Messages of the published raw data: a replay of that size should take seconds."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Measure speed, and what it is compared to.")

Messages = Annotated[int, typer.Option(min=1000, help="Messages through the spine.")]
Files = Annotated[list[Path] | None, typer.Argument(metavar="[DATA.jsonl...]", help="Labelled group windows or gate files; default: the windows of examples/.")]
Limit = Annotated[int, typer.Option(min=2, help="About so many questions.")]
Latency = Annotated[int, typer.Option("--questions", min=5, help="Synthetic questions for latency against bare prefill.")]
ModelFile = Annotated[str, typer.Option(help="GGUF file; default: the packaged model with what is shipped for it.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: all cores but one.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the plots (PNG and SVG).")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]


async def measure_spine(messages: int) -> dict[str, Any]:
    load = chat_load(messages)
    with tempfile.TemporaryDirectory(prefix="doujie-bench-") as folder:
        figures: dict[str, Any] = {
            "spine": await spine(load, Path(folder)),
            "durable_ingest": await durable_ingest(load[: messages // 4], Path(folder)),
            "bus_dispatch": await bus_dispatch(load),
        }
    nonebot = await nonebot_dispatch(load[: messages // 10])
    if nonebot is not None:
        figures["nonebot_dispatch"] = nonebot
        figures["ratios"] = {
            "spine_over_nonebot_dispatch": figures["spine"]["messages_per_second"] / nonebot["events_per_second"],
            "bus_over_nonebot_dispatch": figures["bus_dispatch"]["events_per_second"] / nonebot["events_per_second"],
        }
    return figures


def gate_adapter(model: str) -> Path | None:
    """The shipped adapter, which fits the packaged model alone."""
    return None if model else SHIPPED / "gate" / "adapter.gguf"


async def measure_gate(sample: Sample, latency_questions: int, model: str, threads: int, *, prompts: bool) -> dict[str, Any]:
    path, adapter = model_path(model, "gate"), gate_adapter(model)
    load = chat_load(latency_questions * 4 + 8, chats=1)
    figures: dict[str, Any] = {
        "gate_latency": gate_latency(path, adapter, load, latency_questions, threads=threads),
        "gate_batching": gate_batching(path, adapter, load, threads=threads),
    }
    async with open_ways(model, threads) as ways:
        with _progress("side by side", len(sample.examples)) as advance:
            figures["side_by_side"] = await side_by_side(ways, sample, advance)
    if prompts:
        adapters: dict[str, Path | None] = {"without adapter": None} if adapter is None else {"shipped adapter": adapter, "without adapter": None}
        with _progress("prompts", len(adapters) * len(PARTS)) as advance:
            figures["prompts"] = await prompt_parts(path, adapters, sample, threads, advance)
    return figures


async def measure_quantisation(sample: Sample, model: str, threads: int) -> dict[str, Any]:
    path = model_path(model, "gate")
    calibration = None if model else GateCalibration.load(SHIPPED / "gate" / "calibration.json")
    with Console(stderr=True).status("writing the other formats"):
        files = {path.stem: path, **{form: requantised(path, form) for form in FORMATS}}
    prompt = calibration.prompt if calibration else UNTRAINED_PROMPT
    with _progress("quantisation", len(sample.examples)) as advance:
        return {"quantisation": await quantisation(files, gate_adapter(model), calibration, prompt, sample, threads, advance)}


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(name, total=total)
        yield lambda: progress.advance(bar)


def _finish(figures: dict[str, Any], json_file: Path | None, out: Path | None = None) -> None:
    """Print, draw and write what was measured."""
    console = Console()
    show(console, figures)
    if out is not None and "side_by_side" in figures:
        for file in draw(figures["side_by_side"], out):
            console.print(f"plot: {file}", highlight=False)
    if json_file is not None:
        try:
            json_file.write_text(json.dumps(figures, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(str(json_file), f"cannot be written: {error.strerror}", "Check the folder and its permissions.") from None


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        all_()


@app.command("all")
def all_(messages: Messages = PUBLISHED_LOG, limit: Limit = 60, questions: Latency = 60, threads: Threads = 0, out: Out = None, json_file: JsonFile = None) -> None:
    """The spine, then the gate on the shipped windows."""
    with one_line_errors():
        sample = read_sample([], limit)
        figures = asyncio.run(measure_spine(messages)) | asyncio.run(measure_gate(sample, questions, "", threads, prompts=False))
        _finish(figures, json_file, out)


@app.command("spine")
def spine_(messages: Messages = PUBLISHED_LOG, json_file: JsonFile = None) -> None:
    """Messages per second without a model, durable ingest, and NoneBot2's dispatch beside them."""
    with one_line_errors():
        _finish(asyncio.run(measure_spine(messages)), json_file)


@app.command("gate")
def gate_(
    files: Files = None,
    limit: Limit = 100,
    questions: Latency = 60,
    prompts: Annotated[bool, typer.Option("--prompts", help="Also measure what each part of the prompt buys.")] = False,
    model: ModelFile = "",
    threads: Threads = 0,
    out: Out = None,
    json_file: JsonFile = None,
) -> None:
    """Five ways of judging side by side on one GGUF model: the cascade, the language model with and without kept prefix, the published way, an unconditional rewrite."""
    with one_line_errors():
        sample = read_sample(files or [], limit)
        _finish(asyncio.run(measure_gate(sample, questions, model, threads, prompts=prompts)), json_file, out)


@app.command("resolver")
def resolver_(files: Files = None, limit: Limit = 100, threads: Threads = 0, json_file: JsonFile = None) -> None:
    """Milliseconds of a rewrite by the trees alone, with the pointer, with the reader, and with both, on the questions that need one."""
    with one_line_errors():
        sample = read_sample(files or [], limit)
        with _progress("resolver", sum(example.needs for example in sample.examples)) as advance:
            parts = asyncio.run(resolver_parts(sample, threads, advance))
        _finish({"resolver": parts}, json_file)
        if sample.shipped:
            Console().print(f"[yellow]{TRAINED_ON}[/yellow]")


@app.command("quantisation")
def quantisation_(files: Files = None, limit: Limit = 200, model: ModelFile = "", threads: Threads = 0, json_file: JsonFile = None) -> None:
    """Size, speed and F1 of the model as it is, as Q8_0 and as F16 (made of the same weights)."""
    with one_line_errors():
        _finish(asyncio.run(measure_quantisation(read_sample(files or [], limit), model, threads)), json_file)


if __name__ == "__main__":
    app()
