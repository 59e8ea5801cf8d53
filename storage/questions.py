"""The log of questions: what was asked in which context, every verdict, every rewrite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from core.delivery import REPLY_PREFIX
from core.messages import ContextLine, ConversationKey, Question, RefusalReason, Resolution, Utterance, Verdict
from storage.bulk import STANDING, execute_many, stored_messages
from storage.engine import Database, insert_new
from storage.erasure import without_erased
from storage.labels import Label, consensus_of
from storage.models import labels, messages, questions, replies, rewrites, verdicts

_UNJUDGED, _UNRESOLVED, _DONE = "unjudged", "unresolved", "done"
_PAGE = 500
_CHUNK = 500

_MERGE = (
    sa.update(messages)
    .where(messages.c.platform == sa.bindparam("in_platform"), messages.c.chat_id == sa.bindparam("in_chat"), messages.c.message_id == sa.bindparam("in_message"))
    .values(utterance_id=sa.bindparam("utterance"))
)


@dataclass(frozen=True, slots=True)
class LoggedQuestion:
    """A question with what is known of it, each None where there is none yet.

    ``verdict`` is the newest, also where it comes from judging again later: exports and labellers see what the best gate so far says. ``resolution`` is what the bot made of the
    question in the group, which judging again does not change. ``label`` is the :func:`storage.labels.consensus` of the labellers.
    """

    question: Question
    verdict: Verdict | None = None
    resolution: Resolution | None = None
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class QuestionCounts:
    """Totals of what the bot did in its groups: later judging does not count. ``judged``: with a verdict; ``needs_resolution``: by the newest of these; ``resolved``: with an
    accepted rewrite as the newest one."""

    utterances: int
    questions: int
    judged: int
    needs_resolution: int
    resolved: int


class SqlQuestionLog:
    """Implements :class:`core.ports.QuestionLog` and the readers of the maintainers' commands. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, utterance: Utterance, question: Question | None) -> None:
        """Mark the messages of ``utterance`` as merged and store its question. Idempotent on ``utterance.id``.

        A question is not stored when one of its messages was recalled or erased meanwhile; context lines of such messages are left out.
        """
        await self._database.writer.submit(self._record, (utterance, question), len(utterance.messages))

    async def record_many(self, entries: Sequence[tuple[Utterance, Question | None]]) -> list[Question]:
        """As :meth:`record` for each, in one transaction: all or nothing. Returns the questions as they are stored."""
        if not entries:
            return []
        return await self._database.writer.submit(self._record_many, entries, sum(len(utterance.messages) for utterance, _ in entries))

    async def unjudged(self) -> list[Question]:
        """Questions whose last step (verdict, or resolution of one that needs it) is not recorded, oldest first."""
        return [logged.question for logged in await self.unfinished()]

    async def unfinished(self, among: Collection[str] | None = None) -> list[LoggedQuestion]:
        """As :meth:`unjudged`, with the verdict where there is one already: such a question only waits for its rewrite. ``among``: only those of these ids."""
        ids = None if among is None else sorted(among)
        chunks = [[]] if ids is None else [[questions.c.id.in_(ids[start : start + _CHUNK])] for start in range(0, len(ids), _CHUNK)]
        return [logged for chunk in chunks async for logged in self._pages(questions.c.status != _DONE, *chunk, live=True)]

    async def unanswered(self, platforms: Collection[str], since: datetime) -> list[LoggedQuestion]:
        """Questions of ``platforms`` that were asked at ``since`` or later, are through all their steps, and to which no reply was ever queued, oldest first."""
        replied = sa.exists().where(replies.c.idempotency_key == sa.literal(REPLY_PREFIX) + questions.c.id)
        here = (questions.c.platform.in_(platforms), questions.c.asked_at >= since, questions.c.status == _DONE)
        return [logged async for logged in self._pages(*here, ~replied, live=True)]

    async def judged(self, question_id: str, verdict: Verdict) -> None:
        """Append a verdict and make it the current one. Nothing happens when the question was erased meanwhile."""
        await self._database.writer.submit(self._judged, (question_id, verdict))

    async def resolved(self, question_id: str, resolution: Resolution, seen: Sequence[ContextLine] = ()) -> Resolution:
        """Append a rewrite (accepted or refused) and make it the current one. Nothing happens when the question was erased meanwhile.

        Returns it as it is stored: without words of those lines among ``seen``, which it was made of, that were erased meanwhile.
        """
        return await self._database.writer.submit(self._resolved, (question_id, resolution, seen))

    async def get(self, question_id: str) -> LoggedQuestion | None:
        """One question, or None."""
        return await anext(self._pages(questions.c.id == question_id), None)

    async def get_many(self, question_ids: Sequence[str]) -> dict[str, LoggedQuestion]:
        """The questions among ``question_ids`` that are (still) in the log, in order of asking."""
        found: dict[str, LoggedQuestion] = {}
        for start in range(0, len(question_ids), _CHUNK):
            found.update({logged.question.id: logged async for logged in self._pages(questions.c.id.in_(question_ids[start : start + _CHUNK]))})
        return found

    async def export_rows(self, since: datetime | None = None, labelled: bool = False) -> AsyncIterator[LoggedQuestion]:
        """Questions in order of asking, asked at ``since`` or later; ``labelled``: only those with a label. Holds one page in memory and no lock."""
        conditions: list[sa.ColumnElement[bool]] = []
        if since is not None:
            conditions.append(questions.c.asked_at >= since)
        if labelled:
            conditions.append(sa.exists().where(labels.c.question_id == questions.c.id))
        async for logged in self._pages(*conditions):
            yield logged

    async def verdicts(self, question_id: str) -> list[Verdict]:
        """All verdicts of a question, oldest first."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(verdicts).where(verdicts.c.question_id == question_id).order_by(verdicts.c.id))
            return [verdict_of(row) for row in rows]

    async def counts(self) -> QuestionCounts:
        """Totals over all conversations."""
        verdict, rewrite = _newest(verdicts, ~verdicts.c.relabelled), _newest(rewrites)
        needs = verdict.c.probability >= verdict.c.threshold
        sums = [sa.func.count(questions.c.id), sa.func.count(verdict.c.id), sa.func.count(sa.case((needs, 1))), sa.func.count(sa.case((needs, rewrite.c.rewrite)))]
        joined = questions.outerjoin(verdict, verdict.c.question_id == questions.c.id).outerjoin(rewrite, rewrite.c.question_id == questions.c.id)
        async with self._database.read() as connection:
            utterances = (await connection.execute(sa.select(sa.func.count(messages.c.utterance_id.distinct())))).scalar_one()
            totals = (await connection.execute(sa.select(*sums).select_from(joined))).one()
        return QuestionCounts(utterances, totals[0], totals[1], totals[2], totals[3])

    async def _pages(self, *conditions: sa.ColumnElement[bool], live: bool = False) -> AsyncIterator[LoggedQuestion]:
        """Page by page behind the last question seen, so that no read transaction stays open while the caller works. ``live``: with the verdict that the bot acted on."""
        last: tuple[datetime, str] | None = None
        while True:
            behind = [] if last is None else [sa.or_(questions.c.asked_at > last[0], sa.and_(questions.c.asked_at == last[0], questions.c.id > last[1]))]
            statement = sa.select(questions).where(*conditions, *behind).order_by(questions.c.asked_at, questions.c.id).limit(_PAGE)
            async with self._database.read() as connection:
                page = [question_of(row) for row in await connection.execute(statement)]
                ids = [question.id for question in page]
                judged = {row.question_id: row for row in await connection.execute(_current(verdicts, ids, *((~verdicts.c.relabelled,) if live else ())))}
                rewritten = {row.question_id: row for row in await connection.execute(_current(rewrites, ids))}
                agreed = await consensus_of(connection, ids)
            for question in page:
                verdict, rewrite = judged.get(question.id), rewritten.get(question.id)
                yield LoggedQuestion(question, verdict_of(verdict) if verdict else None, _resolution(rewrite._mapping) if rewrite else None, agreed.get(question.id))
            if len(page) < _PAGE:
                return
            last = (page[-1].asked_at, page[-1].id)

    def _record(self, connection: Connection, entries: Sequence[tuple[Utterance, Question | None]]) -> list[Question | None]:
        merged = [
            {"in_platform": message.platform, "in_chat": message.chat_id, "in_message": message.message_id, "utterance": utterance.id}
            for utterance, _ in entries
            for message in utterance.messages
        ]
        execute_many(connection, _MERGE, merged)
        now = self._database.now()
        asked = _standing(connection, [question for _, question in entries if question is not None])
        execute_many(connection, insert_new(connection.dialect.name, questions), [_question_row(question, now) for question in asked.values()])
        return [None if question is None else asked.get(question.id) for _, question in entries]

    def _record_many(self, connection: Connection, batches: Sequence[Sequence[tuple[Utterance, Question | None]]]) -> list[list[Question]]:
        stored = iter(self._record(connection, [entry for batch in batches for entry in batch]))
        return [[question for _, question in zip(batch, stored, strict=False) if question is not None] for batch in batches]

    def _judged(self, connection: Connection, items: Sequence[tuple[str, Verdict]]) -> list[None]:
        present, now = _present(connection, [question_id for question_id, _ in items]), self._database.now()
        rows = [{"question_id": question_id, "judged_at": now, **verdict_row(verdict)} for question_id, verdict in items if question_id in present]
        if rows:
            connection.execute(sa.insert(verdicts), rows)
            current = dict(items)
            needing = [question_id for question_id in present if current[question_id].needs_resolution]
            _set_status(connection, _DONE, present - set(needing))
            resolved = set(connection.scalars(sa.select(rewrites.c.question_id).where(rewrites.c.question_id.in_(needing))))
            _set_status(connection, _DONE, resolved)
            _set_status(connection, _UNRESOLVED, set(needing) - resolved)
        return [None] * len(items)

    def _resolved(self, connection: Connection, items: Sequence[tuple[str, Resolution, Sequence[ContextLine]]]) -> list[Resolution]:
        wanted = sa.select(questions.c.id, questions.c.text, questions.c.context).where(questions.c.id.in_([question_id for question_id, _, _ in items]))
        present = {row.id: row for row in connection.execute(wanted)}
        stored = [without_erased(resolution, seen, present.get(question_id)) for question_id, resolution, seen in items]
        now = self._database.now()
        rows = [{"question_id": item[0], "resolved_at": now, **_rewrite_row(resolution)} for item, resolution in zip(items, stored, strict=True) if item[0] in present]
        if rows:
            connection.execute(sa.insert(rewrites), rows)
            _set_status(connection, _DONE, set(present))
        return stored


def _standing(connection: Connection, asked: Sequence[Question]) -> dict[str, Question]:
    """By id, the questions whose messages still stand in the inbox, without context lines that do not: a recall may have come while they were on their way here."""
    if not asked:
        return {}
    wanted: dict[ConversationKey, set[str]] = {}
    for question in asked:
        wanted.setdefault(question.conversation, set()).update(question.message_ids, (line.message_id for line in question.context if line.message_id))
    standing = stored_messages(connection, [(key.platform, key.chat_id, message_id) for key, ids in wanted.items() for message_id in ids], STANDING)
    found: dict[str, Question] = {}
    for question in asked:
        platform, chat_id = question.conversation.platform, question.conversation.chat_id
        if standing.issuperset((platform, chat_id, message_id) for message_id in question.message_ids):
            gone = [line for line in question.context if line.message_id and (platform, chat_id, line.message_id) not in standing]
            found[question.id] = _without(question, gone) if gone else question
    return found


def _without(question: Question, gone: Sequence[ContextLine]) -> Question:
    kept = tuple(line for line in question.context if line not in gone)
    return replace(question, context=kept, quotes_unseen=question.quotes_unseen or any(line.is_reply_target for line in gone))


def _present(connection: Connection, ids: Sequence[str]) -> set[str]:
    return set(connection.scalars(sa.select(questions.c.id).where(questions.c.id.in_(ids))))


def _set_status(connection: Connection, status: str, ids: set[str]) -> None:
    if ids:
        connection.execute(sa.update(questions).where(questions.c.id.in_(ids)).values(status=status))


def _newest(table: sa.Table, *conditions: sa.ColumnElement[bool]) -> sa.Subquery:
    """The newest row of each question."""
    newest = sa.select(sa.func.max(table.c.id)).where(*conditions).group_by(table.c.question_id)
    return sa.select(table).where(table.c.id.in_(newest)).subquery()


def _current(table: sa.Table, question_ids: Sequence[str], *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    newest = sa.select(sa.func.max(table.c.id)).where(table.c.question_id.in_(question_ids), *conditions).group_by(table.c.question_id)
    return sa.select(table).where(table.c.id.in_(newest))


def _question_row(question: Question, now: datetime) -> dict[str, Any]:
    return {
        "id": question.id,
        "platform": question.conversation.platform,
        "chat_id": question.conversation.chat_id,
        "chat_name": question.chat_name,
        "sender_id": question.sender_id,
        "sender": question.sender,
        "text": question.text,
        "asked_at": question.asked_at,
        "context": [_line_row(line) for line in question.context],
        "message_ids": list(question.message_ids),
        "glossary": list(question.glossary),
        "rule": question.rule,
        "quotes_unseen": question.quotes_unseen,
        "status": _UNJUDGED,
        "created_at": now,
    }


def _line_row(line: ContextLine) -> dict[str, Any]:
    # By hand: dataclasses.asdict copies deeply and was the dearest call of a replay.
    return {"sender": line.sender, "text": line.text, "message_id": line.message_id, "seconds_before": line.seconds_before, "is_reply_target": line.is_reply_target}


def question_of(row: Row[Any]) -> Question:
    """A row of ``questions`` as the value that was recorded."""
    return Question(
        id=row.id,
        conversation=ConversationKey(row.platform, row.chat_id),
        sender=row.sender,
        text=row.text,
        asked_at=row.asked_at,
        context=tuple(ContextLine(**line) for line in row.context),
        message_ids=tuple(row.message_ids),
        sender_id=row.sender_id,
        chat_name=row.chat_name,
        rule=row.rule,
        glossary=tuple(row.glossary),
        quotes_unseen=row.quotes_unseen,
    )


_VERDICT_COLUMNS = ("model", "adapter", "prompt_version", "stage", "probability", "threshold", "latency_ms")


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """The columns of ``verdicts`` that a verdict fills."""
    return {column: getattr(verdict, column) for column in _VERDICT_COLUMNS}


def verdict_of(row: Row[Any]) -> Verdict:
    """A row of ``verdicts`` as a value."""
    return Verdict(**{column: row._mapping[column] for column in _VERDICT_COLUMNS})


_REWRITE_COLUMNS = ("candidate", "rewrite", "confidence", "model", "prompt_version", "adapter", "latency_ms")


def _rewrite_row(resolution: Resolution) -> dict[str, Any]:
    row = {column: getattr(resolution, column) for column in _REWRITE_COLUMNS}
    return {**row, "reason": resolution.reason.value if resolution.reason else None, "invented": list(resolution.invented)}


def _resolution(row: sa.RowMapping) -> Resolution:
    values = {column: row[column] for column in _REWRITE_COLUMNS}
    return Resolution(**values, reason=RefusalReason(row["reason"]) if row["reason"] else None, invented=tuple(row["invented"]))
