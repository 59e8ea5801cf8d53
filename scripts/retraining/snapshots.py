"""The snapshot that a turn of the loop learns from."""

from __future__ import annotations

from pathlib import Path

import structlog

from core.config import Config
from scripts.exchange.snapshots import take_snapshot
from storage.engine import open_database

log = structlog.get_logger(__name__)


async def snapshot_of(config: Config, out: Path) -> Path:
    """The folder of a snapshot of all labels of the log, in ``out``. Raises StorageError, and InputError where it cannot be written."""
    database = await open_database(config.storage.url)
    try:
        taken = await take_snapshot(database, out, config.bot.timezone)
    finally:
        await database.close()
    for stale in taken.stale:
        remedy = "Members have had these questions, or lines of their context, erased since: delete this folder."
        log.warning("stale_snapshot", folder=str(stale.folder), erased_questions=stale.questions, remedy=remedy)
    return taken.folder
