"""``python -m scripts.snapshot``: what the labellers have said so far, as a versioned folder that ``scripts.train``, ``scripts.evaluate`` and ``scripts.cycle`` read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from core.config import Config, load_config
from core.errors import DoujieError
from scripts.exchange.snapshots import Snapshot, describe, take_snapshot
from storage.engine import open_database

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder that holds the snapshots; each becomes a folder labels-DATE in it.")] = Path("snapshots"),
    config: Annotated[Path | None, typer.Option(help="Config file; without it the defaults.")] = None,
) -> None:
    """Write a snapshot of the labels. The folder's path goes to stdout."""
    try:
        snapshot = asyncio.run(_take(load_config(config), out))
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    typer.echo(str(snapshot.folder))
    typer.echo(describe(snapshot.manifest) if snapshot.fresh else f"nothing has changed since {snapshot.folder.name} was taken today", err=True)
    previous = snapshot.manifest["previous"]
    if snapshot.fresh and previous and not previous["intact"]:
        typer.echo(f"note: {previous['name']} was edited after it was taken; the changes are counted from what it says now", err=True)
    for stale in snapshot.stale:
        erased = f"{stale.questions} questions that were erased since, wholly or in their context, on a member's wish or by age"
        typer.echo(f"note: {stale.folder} still holds {erased}: delete that folder", err=True)


async def _take(config: Config, out: Path) -> Snapshot:
    database = await open_database(config.storage.url)
    try:
        return await take_snapshot(database, out, config.bot.timezone)
    finally:
        await database.close()


if __name__ == "__main__":
    app()
