"""Labels: what maintainers say of logged questions. Kept for ever, also when the same labeller changes a mind; :func:`consensus` says what counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import InputError
from storage.engine import Database
from storage.erasure import without_lost_words
from storage.models import adjudications, labels, questions


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


@dataclass(frozen=True, slots=True)
class Adjudication:
    """The last word on a question whose labellers disagreed."""

    question_id: str
    label: LabelValue
    adjudicator: str
    created_at: datetime
    rewrite: str | None = None


def votes(labels: Sequence[Label]) -> list[Label]:
    """The newest label of each labeller, oldest first: who changes a mind, or meets a question again, has one vote. ``labels``: those of one question."""
    newest: dict[str, Label] = {}
    for label in sorted(labels, key=_age):
        newest[label.labeller] = label
    return sorted(newest.values(), key=_age)


def consensus(labels: Sequence[Label], adjudication: Adjudication | None = None) -> Label | None:
    """What counts for one question, or None where nobody has labelled it.

    An adjudication where there is one; else the value with most votes; between values with equally many, the one that was given last. The result is that adjudication, as a
    label of the adjudicator with id 0, or the newest vote for that value; with its rewrite, or the newest one that a vote for that value gave.
    """
    cast = votes(labels)
    if adjudication is not None:
        winner = Label(adjudication.question_id, adjudication.adjudicator, adjudication.label, adjudication.created_at, adjudication.rewrite)
    elif cast:
        counts = Counter(vote.label for vote in cast)
        most = max(counts.values())
        winner = next(vote for vote in reversed(cast) if counts[vote.label] == most)
    else:
        return None
    rewrite = winner.rewrite or next((vote.rewrite for vote in reversed(cast) if vote.label is winner.label and vote.rewrite), None)
    return replace(winner, rewrite=rewrite)


async def consensus_of(connection: AsyncConnection, question_ids: Sequence[str]) -> dict[str, Label]:
    """The :func:`consensus` of each of the questions that has one. At most some hundred ids."""
    given: dict[str, list[Label]] = {}
    for row in await connection.execute(sa.select(labels).where(labels.c.question_id.in_(question_ids)).order_by(labels.c.id)):
        given.setdefault(row.question_id, []).append(label_of(row))
    settled = {row.question_id: adjudication_of(row) for row in await connection.execute(sa.select(adjudications).where(adjudications.c.question_id.in_(question_ids)))}
    found = {question_id: consensus(given.get(question_id, ()), settled.get(question_id)) for question_id in given.keys() | settled.keys()}
    return {question_id: label for question_id, label in found.items() if label is not None}


def _age(label: Label) -> tuple[datetime, int]:
    return label.created_at, label.id


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

    async def add_new(self, given: Sequence[Label], lines: Sequence[int] = ()) -> list[bool]:
        """Append labels with the times that they bear, in one transaction. Returns for each whether it was stored: one that its labeller has given before (same question, label and
        rewrite) is left out, and so is one for a question that is not in the log.

        ``lines``: of the context, as each labeller saw them; a rewrite that may hold words of one that was erased since is not stored.
        """
        batch = tuple(zip(given, lines or [0] * len(given), strict=True))
        return await self._database.writer.submit(self._add_new, batch, len(batch)) if batch else []

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

    def _add_new(self, connection: Connection, batches: Sequence[Sequence[tuple[Label, int]]]) -> list[list[bool]]:
        return [[_add_once(connection, item, lines) for item, lines in batch] for batch in batches]

    def _remove(self, connection: Connection, ids: Sequence[int]) -> list[bool]:
        return [connection.execute(sa.delete(labels).where(labels.c.id == label_id)).rowcount > 0 for label_id in ids]


def label_of(row: Row[Any]) -> Label:
    """A row of ``labels`` as a value."""
    return Label(row.question_id, row.labeller, LabelValue(row.label), row.created_at, row.rewrite, row.id)


def adjudication_of(row: Row[Any]) -> Adjudication:
    """A row of ``adjudications`` as a value."""
    return Adjudication(row.question_id, LabelValue(row.label), row.adjudicator, row.created_at, row.rewrite)


def _add_once(connection: Connection, item: Label, lines: int) -> bool:
    question = connection.execute(sa.select(questions.c.text, questions.c.context).where(questions.c.id == item.question_id)).first()
    if question is None:
        return False
    item = replace(item, rewrite=without_lost_words(item.rewrite, lines, question))
    return not _given_before(connection, item) and _insert(connection, item) is not None


def _given_before(connection: Connection, item: Label) -> bool:
    same = (labels.c.question_id == item.question_id, labels.c.labeller == item.labeller, labels.c.label == item.label.value)
    return item.rewrite in connection.scalars(sa.select(labels.c.rewrite).where(*same)).all()


def _insert(connection: Connection, item: Label) -> Label | None:
    if connection.scalar(sa.select(questions.c.id).where(questions.c.id == item.question_id)) is None:
        return None
    values = {"question_id": item.question_id, "labeller": item.labeller, "label": item.label.value, "rewrite": item.rewrite, "created_at": item.created_at}
    row_id = connection.scalar(sa.insert(labels).returning(labels.c.id), values)
    return Label(item.question_id, item.labeller, item.label, item.created_at, item.rewrite, row_id or 0)
