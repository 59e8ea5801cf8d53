"""Suspect labels into the review queue of the log, so that the labelling page opens them first."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.scaling_law.suspects import Suspect
from storage.engine import open_database
from storage.questions import SqlQuestionLog
from storage.review_queue import QueueItem, QueueReason, SqlReviewQueue, priority_of


async def queue_suspects(suspects: Sequence[Suspect], database_url: str, judges: int) -> tuple[int, int]:
    """Queue those that are in the log. Returns how many were queued anew, and how many are not in this database. Raises StorageError.

    The entry does not say which label, nor what the models say instead: a labeller who knew would be led by it.
    """
    database = await open_database(database_url)
    try:
        log = SqlQuestionLog(database)
        known = [suspect for suspect in suspects if await log.get(suspect.item.id) is not None]
        detail = f"{judges} models contradict the label"
        queued = await SqlReviewQueue(database).put([QueueItem(one.item.id, QueueReason.SUSPECT_LABEL, priority_of(QueueReason.SUSPECT_LABEL, one.doubt), detail) for one in known])
    finally:
        await database.close()
    return queued, len(suspects) - len(known)
