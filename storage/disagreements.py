"""Labellers beside each other: how well they agree with themselves and with others, where they do not, and the third decision that settles it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from core.agreement import Agreement, agreement
from storage.engine import Database, upsert
from storage.erasure import without_lost_words
from storage.labels import Adjudication, Label, LabelValue, label_of, votes
from storage.models import adjudications, label_repeats, labels, questions
from storage.questions import LoggedQuestion, SqlQuestionLog

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Standing:
    """How a labeller agrees: with the own first look, with all others together, and with each of them by name."""

    myself: Agreement
    others: Agreement
    by_name: tuple[tuple[str, Agreement], ...]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A question with the newest label of each labeller, oldest first, not all of them equal."""

    logged: LoggedQuestion
    votes: tuple[Label, ...]


class SqlDisagreements:
    """Repository of agreement and adjudication. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._log = SqlQuestionLog(database)

    async def standing(self, labeller: str) -> Standing:
        async with self._database.read() as connection:
            myself = await self._second_looks(connection, labeller)
            common = await self._common(connection, labeller)
        by_name: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for newest in common.values():
            mine = newest.pop(labeller)
            for name, label in newest.items():
                by_name[name].append((mine, label))
        every = [pair for pairs in by_name.values() for pair in pairs]
        return Standing(agreement(myself), agreement(every), tuple((name, agreement(pairs)) for name, pairs in sorted(by_name.items())))

    async def open(self) -> list[str]:
        """Questions whose labellers disagree and that nobody has settled, newest label first."""
        settled = sa.exists().where(adjudications.c.question_id == labels.c.question_id)
        # A labeller who changed a mind looks like two who disagree: that is sorted out below, for few.
        suspects = sa.select(labels.c.question_id).where(~settled).group_by(labels.c.question_id).having(sa.func.min(labels.c.label) != sa.func.max(labels.c.label))
        async with self._database.read() as connection:
            ids = list((await connection.execute(suspects.order_by(sa.func.max(labels.c.id).desc()))).scalars())
            given = await _labels_of(connection, ids)
        return [question_id for question_id in ids if _disagree(votes(given[question_id]))]

    async def get(self, question_id: str) -> Disagreement | None:
        logged = await self._log.get(question_id)
        if logged is None:
            return None
        async with self._database.read() as connection:
            given = await _labels_of(connection, [question_id])
        return Disagreement(logged, tuple(votes(given[question_id])))

    async def settle(self, question_id: str, label: LabelValue, rewrite: str | None, adjudicator: str, lines: int = 0) -> Adjudication | None:
        """Record the decision, in place of an earlier one. None when the question was erased meanwhile.

        ``lines``: of its context, as they were shown; a rewrite that may hold words of one that was erased meanwhile is not stored.
        """
        return await self._database.writer.submit(self._settle, (question_id, label, rewrite, adjudicator, lines))

    async def reopen(self, question_id: str, adjudicator: str) -> bool:
        """Take a decision back. False when there is none of this adjudicator."""
        return await self._database.writer.submit(self._reopen, (question_id, adjudicator))

    async def _second_looks(self, connection: AsyncConnection, labeller: str) -> list[tuple[str, str]]:
        """(first label, second label) of each question that this labeller has seen twice."""
        repeats = sa.select(label_repeats.c.question_id, label_repeats.c.created_at).where(label_repeats.c.labeller == labeller)
        second: dict[str, datetime] = {row.question_id: row.created_at for row in await connection.execute(repeats)}
        given = await _labels_of(connection, list(second), labeller)
        pairs = []
        for question_id, at in second.items():
            for first, again in pairwise(given[question_id]):
                if again.created_at == at:
                    pairs.append((first.label.value, again.label.value))
                    break
        return pairs

    async def _common(self, connection: AsyncConnection, labeller: str) -> dict[str, dict[str, str]]:
        """The newest label by name, of each question that ``labeller`` and somebody else labelled."""
        mine, others = labels.alias("mine"), labels.alias("others")
        by_me = sa.exists().where(mine.c.question_id == labels.c.question_id, mine.c.labeller == labeller)
        by_others = sa.exists().where(others.c.question_id == labels.c.question_id, others.c.labeller != labeller)
        statement = sa.select(labels.c.question_id, labels.c.labeller, labels.c.label).where(by_me, by_others).order_by(labels.c.created_at, labels.c.id)
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for question_id, name, label in await connection.execute(statement):
            found[question_id][name] = label
        return found

    def _settle(self, connection: Connection, items: Sequence[tuple[str, LabelValue, str | None, str, int]]) -> list[Adjudication | None]:
        return [_decide(connection, *item, self._database.now()) for item in items]

    def _reopen(self, connection: Connection, items: Sequence[tuple[str, str]]) -> list[bool]:
        return [
            connection.execute(sa.delete(adjudications).where(adjudications.c.question_id == question_id, adjudications.c.adjudicator == adjudicator)).rowcount > 0
            for question_id, adjudicator in items
        ]


def _decide(connection: Connection, question_id: str, label: LabelValue, rewrite: str | None, adjudicator: str, lines: int, now: datetime) -> Adjudication | None:
    question = connection.execute(sa.select(questions.c.text, questions.c.context).where(questions.c.id == question_id)).first()
    if question is None:
        return None
    rewrite = without_lost_words(rewrite, lines, question)
    row: dict[str, Any] = {"question_id": question_id, "label": label.value, "rewrite": rewrite, "adjudicator": adjudicator, "created_at": now}
    connection.execute(upsert(connection.dialect.name, adjudications, ["question_id"], ["label", "rewrite", "adjudicator", "created_at"]), row)
    return Adjudication(question_id, label, adjudicator, now, rewrite)


async def _labels_of(connection: AsyncConnection, ids: Sequence[str], labeller: str = "") -> dict[str, list[Label]]:
    found: dict[str, list[Label]] = defaultdict(list)
    by_whom = (labels.c.labeller == labeller,) if labeller else ()
    for start in range(0, len(ids), _CHUNK):
        statement = sa.select(labels).where(labels.c.question_id.in_(ids[start : start + _CHUNK]), *by_whom).order_by(labels.c.id)
        for row in await connection.execute(statement):
            found[row.question_id].append(label_of(row))
    return found


def _disagree(newest: Iterable[Label]) -> bool:
    return len({label.label for label in newest}) > 1
