"""Pictures of results: the gate's reliability diagram, and the resolver's shares of right and wrong as its threshold moves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.errors import InputError
from scripts.evaluation.results import Result
from scripts.reporting.figures import new_figure


def draw(names: Sequence[str], results: Sequence[Result], out: Path) -> list[Path]:
    """One picture for all gates and one for all curves among ``results``; ``names`` of their files stand in the legends. Returns the pictures.

    :raises InputError: when ``out`` cannot be written, or matplotlib is not installed.
    """
    gates = [(name, result) for name, result in zip(names, results, strict=True) if result.reliability]
    curves = [(name, result) for name, result in zip(names, results, strict=True) if result.curve]
    files = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        if gates:
            files.append(_reliability(gates, out / "reliability.png"))
        if curves:
            files.append(_acceptance(curves, out / "acceptance.png"))
    except OSError as error:
        raise InputError(str(out), f"cannot be written: {error.strerror}", "Give a folder that this user may write to.") from None
    return files


def _reliability(gates: Sequence[tuple[str, Result]], file: Path) -> Path:
    figure, (axes,) = new_figure(height=4.6, width=5.6)
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfectly calibrated")
    for name, result in gates:
        bins = result.reliability
        (line,) = axes.plot([b.probability for b in bins], [b.share for b in bins], linewidth=1, label=f"{name}: error {result.metrics['calibration_error']:.3f}, n = {result.n}")
        axes.scatter([b.probability for b in bins], [b.share for b in bins], s=[8 + 240 * b.count / result.n for b in bins], color=line.get_color(), alpha=0.7)
    axes.set_xlabel("probability that the gate gives")
    axes.set_ylabel("share that needs resolution")
    axes.set_title("Reliability of the gate (area: share of the items)")
    axes.legend(fontsize="small")
    axes.grid(visible=True, alpha=0.25)
    figure.savefig(file)
    return file


def _acceptance(curves: Sequence[tuple[str, Result]], file: Path) -> Path:
    figure, all_axes = new_figure(columns=len(curves))
    for axes, (name, result) in zip(all_axes, curves, strict=True):
        thresholds = [point["threshold"] for point in result.curve]
        for share, label, colour in (("right_share", "right, of those that need one", "#2e9e44"), ("wrong_share", "wrong, of those accepted", "#c62f2f")):
            axes.plot(thresholds, [point[share] for point in result.curve], label=label, color=colour, drawstyle="steps-post")
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("least confidence that is accepted")
        axes.set_title(name, fontsize="medium")
        axes.legend(fontsize="small")
        axes.grid(visible=True, alpha=0.25)
    figure.savefig(file)
    return file
