"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scripts.evaluation.results import Result

#: Points of the acceptance curve that are printed; the JSON has all.
_CURVE_SHOWN = 4


def show(console: Console, file: str, result: Result) -> None:
    """Metrics of one task with its baselines beside, then details, breakdowns and curve."""
    table = Table(title=f"{escape(file)} · {result.task} · n = {result.n}", title_justify="left", title_style="bold")
    rows: dict[str, Mapping[str, float | int | None]] = {"measured": result.metrics, **result.baselines}
    _fill(table, rows, list(result.metrics))
    console.print(table)
    for group, metrics in result.breakdown.items():
        if len(metrics) > 1 or next(iter(metrics)) != "-":
            by = Table(title=f"by {group}", title_justify="left")
            _fill(by, metrics, list(dict.fromkeys(name for row in metrics.values() for name in row)))
            console.print(by)
    if result.curve:
        points = Table(title="as the acceptance threshold moves (right: of those that need resolution; wrong: of those accepted)", title_justify="left")
        rows_shown = {f"{point['threshold']:.2f}": point for point in result.curve[::_CURVE_SHOWN]}
        _fill(points, rows_shown, ["accepted", "right", "wrong", "right_share", "wrong_share"])
        console.print(points)
    for name, value in result.details.items():
        console.print(f"  {name}: {escape(_plain(value))}", highlight=False)
    for note in result.notes:
        console.print(f"  [yellow]{escape(note)}[/yellow]", highlight=False)
    console.print()


def _fill(table: Table, rows: Mapping[str, Mapping[str, float | int | None]], columns: list[str]) -> None:
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in rows.items():
        table.add_row(escape(name), *(_number(values.get(column)) for column in columns))


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value) or "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
