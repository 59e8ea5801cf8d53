"""Verdicts beyond the live ones: what judging logged questions again reads and writes.

What the bot acted on in a group stays as it was: a verdict of this module never changes the state of a question, so that nothing is resolved or answered again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.messages import GateVersion, Question, Verdict
from storage.engine import Database
from storage.models import questions, verdicts
from storage.questions import SqlQuestionLog, verdict_of, verdict_row

_CHUNK = 500


class SqlVerdicts:
    """Implements :class:`core.relabel.RelabelLog`. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def not_last_judged_by(self, versions: Collection[GateVersion], since: datetime | None, limit: int) -> list[str]:
        """Ids of the newest questions, asked at ``since`` or later, whose newest verdict is of none of ``versions`` (all of them where ``versions`` is empty), newest first."""
        statement = sa.select(questions.c.id).order_by(questions.c.asked_at.desc(), questions.c.id.desc()).limit(limit)
        if since is not None:
            statement = statement.where(questions.c.asked_at >= since)
        if versions:
            known = [sa.and_(verdicts.c.model == one.model, verdicts.c.adapter == one.adapter, verdicts.c.prompt_version == one.prompt_version) for one in versions]
            newest = sa.select(sa.func.max(verdicts.c.id)).where(verdicts.c.question_id == questions.c.id).correlate(questions).scalar_subquery()
            statement = statement.where(~sa.exists().where(verdicts.c.id == newest, sa.or_(*known)))
        async with self._database.read() as connection:
            return list(await connection.scalars(statement))

    async def append(self, judged: Sequence[tuple[str, Verdict]]) -> list[str]:
        """Store verdicts of judging again. Returns the ids of the questions that are still in the log; the others were erased meanwhile."""
        return await self._database.writer.submit(self._append, tuple(judged), len(judged)) if judged else []

    async def with_verdicts(self, question_ids: Sequence[str]) -> list[tuple[Question, Verdict | None]]:
        """The questions that are still in the log, in order of asking, with their newest verdicts."""
        found = await SqlQuestionLog(self._database).get_many(question_ids)
        return [(logged.question, logged.verdict) for logged in found.values()]

    async def of_questions(self, question_ids: Sequence[str]) -> dict[str, list[Verdict]]:
        """All verdicts of the questions that have any, oldest first."""
        found: dict[str, list[Verdict]] = {}
        async with self._database.read() as connection:
            for start in range(0, len(question_ids), _CHUNK):
                chunk = question_ids[start : start + _CHUNK]
                for row in await connection.execute(sa.select(verdicts).where(verdicts.c.question_id.in_(chunk)).order_by(verdicts.c.id)):
                    found.setdefault(row.question_id, []).append(verdict_of(row))
        return found

    def _append(self, connection: Connection, batches: Sequence[tuple[tuple[str, Verdict], ...]]) -> list[list[str]]:
        now, stored = self._database.now(), []
        for batch in batches:
            present = set(connection.scalars(sa.select(questions.c.id).where(questions.c.id.in_([question_id for question_id, _ in batch]))))
            rows = [{"question_id": one, "judged_at": now, "relabelled": True, **verdict_row(verdict)} for one, verdict in batch if one in present]
            if rows:
                connection.execute(sa.insert(verdicts), rows)
            stored.append([question_id for question_id, _ in batch if question_id in present])
        return stored
