"""Plots of the gate's figures, as PNG and SVG. matplotlib is imported here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.errors import InputError

FORMATS = ("png", "svg")


def draw(figures: Mapping[str, Any], out: Path) -> list[Path]:
    """Plots of :func:`scripts.benchmarks.side_by_side.side_by_side` in the folder ``out``: time against F1, and who settles how much. Returns the files.

    :raises InputError: when ``out`` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = _save(out, "bench-ms-f1", lambda axes: _time_against_f1(axes, figures))
        if "curve" in figures:
            files += _save(out, "bench-stages", lambda axes: _settled(axes, figures))
    except OSError as error:
        raise InputError(str(out), f"cannot be written: {error.strerror}", "Give a folder that this user may write to.") from None
    return files


def _save(out: Path, name: str, fill: Callable[[Any], None]) -> list[Path]:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "doujie"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    fill(axes)
    files = [out / f"{name}.{form}" for form in FORMATS]
    for file in files:
        figure.savefig(file, dpi=140, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)
    return files


def _time_against_f1(axes: Any, figures: Mapping[str, Any]) -> None:
    for name, way in figures["ways"].items():
        milliseconds = way["gate_ms"] if way["gate_ms"] is not None else way["ms_per_question"]
        axes.scatter(milliseconds, way["f1"], s=45, zorder=3, label=name)
    if curve := [point for point in figures.get("curve", []) if not point["shipped"]]:
        axes.plot([point["ms"] for point in curve], [point["f1"] for point in curve], marker=".", color="grey", label="cascade, as its band of certainty moves")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds a question until it is judged (logarithmic)")
    axes.set_ylabel("F1 of “needs resolution”")
    axes.set_title(f"{figures['model']}, {figures['sample']['questions']} questions")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize="small")


def _settled(axes: Any, figures: Mapping[str, Any]) -> None:
    curve = [point for point in figures["curve"] if not point["shipped"]]
    shipped = next(point for point in figures["curve"] if point["shipped"])
    times, shares = [point["ms"] for point in curve], [100 * point["settled_by_head"] for point in curve]
    axes.stackplot(times, shares, [100 - share for share in shares], labels=["settled by the encoder head", "settled by the language model"], alpha=0.75)
    axes.axvline(shipped["ms"], color="black", linestyle="--", label=f"shipped band: {100 * shipped['settled_by_head']:.0f}% by the head")
    axes.set_xlabel("mean milliseconds a question")
    axes.set_ylabel("share of the questions, %")
    axes.set_ylim(0, 100)
    axes.set_title(f"Who settles how much ({figures['sample']['questions']} questions)")
    axes.legend(fontsize="small", loc="lower left")
