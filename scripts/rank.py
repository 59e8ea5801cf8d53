"""``python -m scripts.rank ADAPTER_OR_MODEL``: the rank of what a training changed, and whether low-rank adapters suffice for it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.errors import DoujieError, InputError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())


@app.command()
def main(
    trained: Annotated[Path, typer.Argument(metavar="ADAPTER_OR_MODEL", help="A peft LoRA folder, a GGUF LoRA adapter, or a fully fine-tuned model (folder of safetensors).")],
    base: Annotated[str, typer.Option(help="The model before full fine-tuning: a folder or GGUF file; empty: the packaged model.")] = "",
    rank: Annotated[int | None, typer.Option(min=1, help="The rank in question, for full fine-tuning; default 64.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of report.html and rank.json.")] = Path("rank-out"),
) -> None:
    """Singular values of a training's change: effective rank, energy kept by each rank, by depth and module."""
    try:
        _run(trained, base, rank, out)
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None


def _run(trained: Path, base: str, rank: int | None, out: Path) -> None:
    missing = [name for name in ("torch", "safetensors", "gguf", "matplotlib") if find_spec(name) is None]
    if missing:
        raise InputError("scripts.rank", f"not installed: {', '.join(missing)}", 'pip install "doujie[train]"')
    from scripts.low_rank.changes import read_change
    from scripts.low_rank.report import as_json, make_page
    from scripts.low_rank.verdict import judge_rank
    from scripts.reporting.page import write_page

    with Progress(*_COLUMNS, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("singular values", total=None)
        change = read_change(trained, base, lambda done, total: progress.update(bar, completed=done, total=total))
    verdict = judge_rank(change, rank)
    write_page(make_page(str(trained), change, verdict), out / "report.html")
    try:
        (out / "rank.json").write_text(json.dumps(as_json(str(trained), change, verdict), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(str(out), f"cannot be written: {error.strerror}", "Give another --out.") from None
    typer.echo("rank  energy kept")
    for number, share in verdict.kept.items():
        typer.echo(f"{number:>4}  {share:.1%}")
    for sentence in verdict.sentences:
        typer.echo(sentence)
    typer.echo(f"report: {out / 'report.html'}", err=True)


if __name__ == "__main__":
    app()
