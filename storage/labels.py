"""Labels: what maintainers say of logged questions. Kept for ever, also when the same labeller changes a mind; the newest counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from core.errors import InputError
from storage.engine import Database
from storage.models import labels, questions


class LabelValue(StrEnum):
    """``yes``: needs resolution; ``no``: stands alone; ``not_question``: asks nothing."""

    YES = "yes"
    NO = "no"
    NOT_QUESTION = "not_question"


@dataclass(frozen=True, slots=True)
class Label:
    """One labeller's word on one question. ``rewrite``: the question as it should stand alone, where the labeller gave one."""

    question_id: str
    labeller: str
    label: LabelValue
    created_at: datetime
    rewrite: str | None = None
    id: int = 0


class SqlLabels:
    """Repository of labels. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, question_id: str, labeller: str, label: LabelValue, rewrite: str | None = None) -> Label:
        """Append a label. Raises InputError when there is no such question (any more)."""
        stored: Label | None = await self._database.writer.submit(self._add, Label(question_id, labeller, label, self._database.now(), rewrite))
        if stored is None:
            raise InputError(f"question {question_id}", "not in the log", "It may have been erased on a member's wish; go on with the next")
        return stored

    async def remove(self, label_id: int) -> bool:
        """Take a label back (undo). False when there is none."""
        return await self._database.writer.submit(self._remove, label_id)

    async def of_question(self, question_id: str) -> list[Label]:
        """All labels of a question, oldest first."""
        return await self._select(labels.c.question_id == question_id)

    async def by_labeller(self, labeller: str) -> list[Label]:
        """All labels that a labeller gave, oldest first."""
        return await self._select(labels.c.labeller == labeller)

    async def all(self) -> list[Label]:
        """All labels, oldest first."""
        return await self._select()

    async def _select(self, *conditions: sa.ColumnElement[bool]) -> list[Label]:
        async with self._database.read() as connection:
            return [label_of(row) for row in await connection.execute(sa.select(labels).where(*conditions).order_by(labels.c.id))]

    def _add(self, connection: Connection, items: Sequence[Label]) -> list[Label | None]:
        return [_insert(connection, item) for item in items]

    def _remove(self, connection: Connection, ids: Sequence[int]) -> list[bool]:
        return [connection.execute(sa.delete(labels).where(labels.c.id == label_id)).rowcount > 0 for label_id in ids]


def label_of(row: Row[Any]) -> Label:
    """A row of ``labels`` as a value."""
    return Label(row.question_id, row.labeller, LabelValue(row.label), row.created_at, row.rewrite, row.id)


def _insert(connection: Connection, item: Label) -> Label | None:
    if connection.scalar(sa.select(questions.c.id).where(questions.c.id == item.question_id)) is None:
        return None
    values = {"question_id": item.question_id, "labeller": item.labeller, "label": item.label.value, "rewrite": item.rewrite, "created_at": item.created_at}
    row_id = connection.scalar(sa.insert(labels).returning(labels.c.id), values)
    return Label(item.question_id, item.labeller, item.label, item.created_at, item.rewrite, row_id or 0)
