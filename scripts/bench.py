"""Benchmarks: python -m scripts.bench [all|spine|gate] [--json FILE].

Ratios of figures taken in one run are what to look at; absolute figures change with the machine and its mood.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from core.gates.factory import SHIPPED
from core.gates.packaged import model_path
from scripts.benchmarks.gate import gate_latency
from scripts.benchmarks.load import chat_load
from scripts.benchmarks.spine import bus_dispatch, durable_ingest, nonebot_dispatch, spine

PUBLISHED_LOG = 58_000
"""Messages of the published raw data: a replay of that size should take seconds."""


class What(StrEnum):
    ALL = "all"
    SPINE = "spine"
    GATE = "gate"


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


def measure_gate(questions: int, model: str) -> dict[str, Any]:
    adapter = SHIPPED / "gate" / "adapter.gguf"
    use_adapter = adapter if adapter.exists() and not model else None
    return {"gate_latency": gate_latency(model_path(model, "gate"), use_adapter, chat_load(questions * 4 + 8, chats=1), questions)}


def show(figures: dict[str, Any]) -> None:
    console = Console()
    for name, values in figures.items():
        table = Table(title=name.replace("_", " "), show_header=False)
        for key, value in values.items():
            table.add_row(key.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else f"{value:,}")
        console.print(table)


def main(
    what: Annotated[What, typer.Argument(help="What to measure.")] = What.ALL,
    messages: Annotated[int, typer.Option(min=1000, help="Messages through the spine.")] = PUBLISHED_LOG,
    questions: Annotated[int, typer.Option(min=5, help="Questions for the gate.")] = 60,
    model: Annotated[str, typer.Option(help="GGUF file; default: the packaged model.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Measure the spine without a model, durable ingest and the gate, with what they are compared to."""
    figures: dict[str, Any] = {}
    if what in (What.ALL, What.SPINE):
        figures |= asyncio.run(measure_spine(messages))
    if what in (What.ALL, What.GATE):
        figures |= measure_gate(questions, model)
    show(figures)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
