"""Figures of the benchmarks as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

TRAINED_ON = "The shipped models were trained on these windows: F1, right and wrong say nothing about quality elsewhere. Name files that they have not seen."


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """Numbers as two columns, named groups of numbers as a row each."""
    for name, values in figures.items():
        if name == "side_by_side":
            _show_side_by_side(console, values)
        elif name == "prompts":
            for adapter, rows in values.items():
                _rows(console, f"prompt parts, {adapter}", rows)
        elif all(isinstance(value, Mapping) for value in values.values()):
            _rows(console, name.replace("_", " "), values)
        else:
            _pairs(console, name, values)


def _show_side_by_side(console: Console, figures: Mapping[str, Any]) -> None:
    sample = figures["sample"]
    title = f"{figures['model']}: {sample['questions']} questions of {sample['messages']} messages, {sample['need_resolution']} need resolution"
    _rows(console, title, _turned(figures["ways"]))
    _pairs(console, "ratios", figures["ratios"])
    _pairs(console, "settled by", figures["settled_by"])
    if "curve" in figures:
        points = {f"{'shipped' if point['shipped'] else number}": {key: value for key, value in point.items() if key != "shipped"} for number, point in enumerate(figures["curve"])}
        _rows(console, "cascade, as its band of certainty moves", points)
    if sample["trained_on"]:
        console.print(f"[yellow]{TRAINED_ON}[/yellow]")


def _turned(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Columns as rows: few things of which much is known."""
    keys = dict.fromkeys(key for row in rows.values() for key in row)
    return {key.replace("_", " "): {name: row.get(key) for name, row in rows.items()} for key in keys}


def _pairs(console: Console, title: str, values: Mapping[str, Any]) -> None:
    table = Table(title=escape(title.replace("_", " ")), title_justify="left", show_header=False)
    for key, value in values.items():
        table.add_row(escape(key.replace("_", " ")), _number(value))
    console.print(table)


def _rows(console: Console, title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    table = Table(title=escape(title), title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, row in rows.items():
        table.add_row(escape(name), *(_number(row.get(column)) for column in columns))
    console.print(table)


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))
