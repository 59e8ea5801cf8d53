"""The review queue: logged questions that deserve a human eye first, at most one entry per question.

``scripts.relabel`` and the scaling check fill it, the labelling page empties it. An entry goes with its question when that is erased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.engine import Database, upsert
from storage.models import complaints, labels, questions, review_queue

_CHUNK = 500


class QueueReason(StrEnum):
    """Why a person should look."""

    COMPLAINT = "complaint"
    DISAGREEMENT = "disagreement"
    NEAR_THRESHOLD = "near_threshold"
    REFUSED = "refused"
    NEW_WORDS = "new_words"
    SUSPECT_LABEL = "suspect_label"


_RANKS = (QueueReason.NEW_WORDS, QueueReason.NEAR_THRESHOLD, QueueReason.REFUSED, QueueReason.DISAGREEMENT, QueueReason.SUSPECT_LABEL, QueueReason.COMPLAINT)


def priority_of(reason: QueueReason, strength: float = 0.0) -> float:
    """The scale that all who queue share: each reason before those of lower rank, and within one the stronger case first. ``strength`` is cut to 0..1."""
    return _RANKS.index(reason) + 1.0 + 0.999 * min(max(strength, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class QueueItem:
    """One entry. ``priority``: see :func:`priority_of`; ``detail``: one line for the labeller, without words of other members; ``created_at``: set by the queue."""

    question_id: str
    reason: QueueReason
    priority: float
    detail: str = ""
    created_at: datetime | None = None


class SqlReviewQueue:
    """Repository of the queue. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, items: Sequence[QueueItem]) -> int:
        """Queue questions. One that waits already keeps the entry of the higher priority; skipped are unknown ids, and what was answered since it was looked at.

        Returns how many questions were not queued before.
        """
        if not items:
            return 0
        return await self._database.writer.submit(self._put, tuple(items), len(items))

    async def remove(self, question_ids: Sequence[str]) -> None:
        """Take questions out, whether or not they are queued."""
        if question_ids:
            await self._database.writer.submit(self._remove, tuple(question_ids), len(question_ids))

    async def top(self, limit: int, exclude_labelled_by: str = "") -> list[QueueItem]:
        """The first ``limit`` entries, highest priority first; ``exclude_labelled_by``: without the questions that this labeller has labelled."""
        statement = sa.select(review_queue).order_by(review_queue.c.priority.desc(), review_queue.c.question_id.desc()).limit(limit)
        if exclude_labelled_by:
            seen = sa.exists().where(labels.c.question_id == review_queue.c.question_id, labels.c.labeller == exclude_labelled_by)
            statement = statement.where(~seen)
        async with self._database.read() as connection:
            return [_item(row) for row in await connection.execute(statement)]

    async def size(self) -> int:
        """Number of queued questions."""
        async with self._database.read() as connection:
            return (await connection.execute(sa.select(sa.func.count()).select_from(review_queue))).scalar_one()

    def _put(self, connection: Connection, batches: Sequence[tuple[QueueItem, ...]]) -> list[int]:
        return [_put_batch(connection, batch, self._database.now()) for batch in batches]

    def _remove(self, connection: Connection, batches: Sequence[tuple[str, ...]]) -> list[None]:
        for batch in batches:
            for start in range(0, len(batch), _CHUNK):
                connection.execute(sa.delete(review_queue).where(review_queue.c.question_id.in_(batch[start : start + _CHUNK])))
        return [None] * len(batches)


def _put_batch(connection: Connection, batch: Sequence[QueueItem], now: datetime) -> int:
    best: dict[str, QueueItem] = {}
    for item in batch:
        if item.question_id not in best or item.priority > best[item.question_id].priority:
            best[item.question_id] = item
    ids = list(best)
    statement = upsert(connection.dialect.name, review_queue, ["question_id"], ["reason", "priority", "detail"], only_higher="priority")
    new = 0
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        known = set(connection.scalars(sa.select(questions.c.id).where(questions.c.id.in_(chunk))))
        known -= _answered(connection, [best[question_id] for question_id in chunk])
        queued = set(connection.scalars(sa.select(review_queue.c.question_id).where(review_queue.c.question_id.in_(chunk))))
        rows = [_row(best[question_id], now) for question_id in chunk if question_id in known]
        if rows:
            connection.execute(statement, rows)
        new += len(known - queued)
    return new


def _answered(connection: Connection, items: Sequence[QueueItem]) -> set[str]:
    """The questions that have a label, where the reason is one to look at those that have none, or at one that was labelled before a member complained."""
    ids = [item.question_id for item in items if item.reason is not QueueReason.SUSPECT_LABEL]
    newest = sa.select(labels.c.question_id, sa.func.max(labels.c.created_at).label("at")).where(labels.c.question_id.in_(ids)).group_by(labels.c.question_id)
    labelled = {row.question_id: row.at for row in connection.execute(newest)}
    about = sa.select(complaints.c.question_id, complaints.c.created_at).where(complaints.c.question_id.in_(labelled))
    complained = {row.question_id: row.created_at for row in connection.execute(about)}
    to_hear = {item.question_id for item in items if item.reason is QueueReason.COMPLAINT}
    return {question_id for question_id, at in labelled.items() if question_id not in to_hear or (question_id in complained and at >= complained[question_id])}


def _row(item: QueueItem, now: datetime) -> dict[str, Any]:
    return {"question_id": item.question_id, "reason": item.reason.value, "priority": item.priority, "detail": item.detail, "created_at": now}


def _item(row: sa.Row[Any]) -> QueueItem:
    return QueueItem(row.question_id, QueueReason(row.reason), row.priority, row.detail, row.created_at)
