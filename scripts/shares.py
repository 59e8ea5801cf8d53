"""``python -m scripts.shares DATA... --out DIR``: nested shares of training data, for the data axis of ``scripts.scaling``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core.errors import DoujieError
from scripts.scaling_law.shares import parse_share, write_shares

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Training files: JSON Lines, or a JSON list.")],
    out: Annotated[Path, typer.Option(help="Folder; each share becomes a folder in it.")],
    shares: Annotated[str, typer.Option(help="Shares, separated by commas.")] = "1/8,1/4,1/2,1",
    seed: Annotated[int, typer.Option(help="Which records come first.")] = 1,
) -> None:
    """Write nested shares of training files: each share holds the smaller ones."""
    try:
        counts = write_shares(data, [parse_share(share) for share in shares.split(",")], out, seed)
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    for name, count in counts.items():
        typer.echo(f"{out / name}: {count} records")


if __name__ == "__main__":
    app()
