"""What the dashboard shows, read in one go: the funnel of the day, groups, latest questions, flips, labels, models, and whether work waits."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from core.delivery import REPLY_PREFIX
from core.messages import ContextLine, ConversationKey
from storage.disagreements import SqlDisagreements
from storage.engine import Database
from storage.models import chats, group_settings, job_runs, labels, messages, questions, replies, review_queue, rewrites, verdicts
from storage.outbox import ReplyState

LATEST = 15
FLIPS = 8
FLIP_WINDOW = 5000
"""Flips are looked for among so many of the newest verdicts."""
GROUPS = 30


@dataclass(frozen=True, slots=True)
class Funnel:
    """What became of the messages that were received since the day began, as the bot saw it then. ``answered``: with a reply that reached the group."""

    messages: int
    utterances: int
    questions: int
    needs_resolution: int
    resolved: int
    answered: int


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group; ``messages`` and ``questions`` of today."""

    conversation: ConversationKey
    name: str
    messages: int
    questions: int
    last_message_at: datetime | None
    enabled: bool


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A logged question. ``probability``, ``needs``: of its newest verdict, None without one; ``reason``: why it was not rewritten; ``label``: the newest one."""

    id: str
    group: str
    sender: str
    text: str
    asked_at: datetime
    context: tuple[ContextLine, ...]
    probability: float | None
    needs: bool | None
    rewrite: str | None
    reason: str | None
    label: str | None


@dataclass(frozen=True, slots=True)
class Flip:
    """A question whose newest verdict decides otherwise than the one before: (model, probability) of both."""

    id: str
    group: str
    text: str
    before: tuple[str, float]
    after: tuple[str, float]
    needs: bool
    judged_at: datetime


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """``by_value`` and ``by_labeller`` count answers."""

    questions: int
    labelled: int
    by_value: dict[str, int]
    by_labeller: tuple[tuple[str, int], ...]
    queued: int
    disagreements: int


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Verdicts of one model, adapter and prompt version."""

    model: str
    adapter: str
    prompt_version: str
    verdicts: int
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class Job:
    """The last run of a periodic job; ``ended_at`` None while it runs."""

    name: str
    began_at: datetime
    ended_at: datetime | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """``unfinished``: questions that wait for a verdict or rewrite; ``replies``: in the outbox."""

    unfinished: int
    replies: int
    last_message_at: datetime | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The dashboard at one moment."""

    taken_at: datetime
    funnel: Funnel
    groups: tuple[GroupRow, ...]
    latest: tuple[QuestionRow, ...]
    flips: tuple[Flip, ...]
    labels: LabelCounts
    models: tuple[ModelVersion, ...]
    waiting: Waiting
    jobs: tuple[Job, ...] = field(default=())


class SqlDashboard:
    """Reads :class:`Snapshot`. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._disagreements = SqlDisagreements(database)

    async def snapshot(self, day_began: datetime) -> Snapshot:
        """``day_began``: the funnel and the groups' counts hold what was received from this moment on."""
        disagreements = len(await self._disagreements.open())
        async with self._database.read() as connection:
            today = await _first_of_day(connection, day_began)
            return Snapshot(
                taken_at=self._database.now(),
                funnel=await _funnel(connection, today),
                groups=await _groups(connection, today),
                latest=await _latest(connection),
                flips=await _flips(connection),
                labels=await _labels(connection, disagreements),
                models=await _models(connection),
                waiting=await _waiting(connection),
                jobs=tuple([Job(*row) for row in await connection.execute(sa.select(job_runs).order_by(job_runs.c.name))]),
            )


async def _first_of_day(connection: AsyncConnection, day_began: datetime) -> sa.ColumnElement[bool]:
    """Row ids ascend in order of arrival: the newest row from before the day bounds it without an index on times."""
    before = sa.select(messages.c.id).where(messages.c.received_at < day_began).order_by(messages.c.id.desc()).limit(1)
    return messages.c.id > ((await connection.execute(before)).scalar_one_or_none() or 0)


async def _funnel(connection: AsyncConnection, today: sa.ColumnElement[bool]) -> Funnel:
    received = sa.select(sa.func.count()).where(today, messages.c.recalled_at.is_(None))
    said = sa.select(messages.c.utterance_id).where(today, messages.c.utterance_id.is_not(None)).distinct().subquery()
    joined, (verdict, rewrite) = _with_newest(said.outerjoin(questions, questions.c.id == said.c.utterance_id), questions.c.id, verdicts, rewrites, acted_on=True)
    answered = sa.exists().where(replies.c.idempotency_key == sa.literal(REPLY_PREFIX).concat(questions.c.id), replies.c.state == ReplyState.SENT.value)
    needs = verdict.c.probability >= verdict.c.threshold
    totals = sa.select(
        sa.func.count(said.c.utterance_id),
        sa.func.count(questions.c.id),
        sa.func.count(sa.case((needs, 1))),
        sa.func.count(sa.case((sa.and_(needs, rewrite.c.rewrite.is_not(None)), 1))),
        sa.func.count(sa.case((sa.and_(questions.c.id.is_not(None), answered), 1))),
    ).select_from(joined)
    return Funnel((await connection.execute(received)).scalar_one(), *(await connection.execute(totals)).one())


async def _groups(connection: AsyncConnection, today: sa.ColumnElement[bool]) -> tuple[GroupRow, ...]:
    here = (messages.c.platform == chats.c.platform, messages.c.chat_id == chats.c.chat_id)
    newest = sa.select(messages.c.sent_at).where(*here).order_by(messages.c.id.desc()).limit(1).correlate(chats).scalar_subquery()
    settings = sa.and_(group_settings.c.platform == chats.c.platform, group_settings.c.chat_id == chats.c.chat_id)
    statement = sa.select(chats.c.platform, chats.c.chat_id, chats.c.name, newest.label("last"), group_settings.c.enabled).outerjoin_from(chats, group_settings, settings)
    asked = sa.and_(questions.c.id == messages.c.utterance_id, messages.c.utterance_id.is_not(None))
    counts = (
        sa.select(messages.c.platform, messages.c.chat_id, sa.func.count(messages.c.id), sa.func.count(questions.c.id.distinct()))
        .outerjoin_from(messages, questions, asked)
        .where(today, messages.c.recalled_at.is_(None))
        .group_by(messages.c.platform, messages.c.chat_id)
    )
    of_today = {(platform, chat_id): (heard, asking) for platform, chat_id, heard, asking in await connection.execute(counts)}
    rows = (await connection.execute(statement)).all()
    found = [
        GroupRow(ConversationKey(row.platform, row.chat_id), row.name or row.chat_id, *of_today.get((row.platform, row.chat_id), (0, 0)), row.last, row.enabled is not False)
        for row in rows
    ]
    return tuple(sorted(found, key=_last_heard, reverse=True)[:GROUPS])


def _last_heard(group: GroupRow) -> float:
    return group.last_message_at.timestamp() if group.last_message_at else 0.0


async def _latest(connection: AsyncConnection) -> tuple[QuestionRow, ...]:
    newest = sa.select(questions).order_by(questions.c.asked_at.desc(), questions.c.id.desc()).limit(LATEST).subquery()
    joined, (verdict, rewrite, label) = _with_newest(newest, newest.c.id, verdicts, rewrites, labels)
    columns = (verdict.c.probability, verdict.c.threshold, rewrite.c.rewrite, rewrite.c.reason, label.c.label)
    rows = await connection.execute(sa.select(newest, *columns).select_from(joined).order_by(newest.c.asked_at.desc(), newest.c.id.desc()))
    return tuple([_question_row(row) for row in rows])


def _question_row(row: sa.Row[Any]) -> QuestionRow:
    return QuestionRow(
        id=row.id,
        group=row.chat_name or row.chat_id,
        sender=row.sender,
        text=row.text,
        asked_at=row.asked_at,
        context=tuple(ContextLine(**line) for line in row.context),
        probability=row.probability,
        needs=None if row.probability is None else row.probability >= row.threshold,
        rewrite=row.rewrite,
        reason=row.reason,
        label=row.label,
    )


async def _flips(connection: AsyncConnection) -> tuple[Flip, ...]:
    newest = sa.select(verdicts.c.id, verdicts.c.question_id).order_by(verdicts.c.id.desc()).limit(FLIP_WINDOW).subquery()
    after, before = verdicts.alias("after"), verdicts.alias("before")
    later, earlier = verdicts.alias("later"), verdicts.alias("earlier")
    previous = sa.select(sa.func.max(earlier.c.id)).where(earlier.c.question_id == newest.c.question_id, earlier.c.id < newest.c.id).scalar_subquery()
    joined = newest.join(before, before.c.id == previous).join(after, after.c.id == newest.c.id).join(questions, questions.c.id == newest.c.question_id)
    needs_now, needed = after.c.probability >= after.c.threshold, before.c.probability >= before.c.threshold
    overtaken = sa.exists().where(later.c.question_id == newest.c.question_id, later.c.id > newest.c.id)
    columns = [
        questions.c.id,
        questions.c.chat_name,
        questions.c.chat_id,
        questions.c.text,
        before.c.model.label("old_model"),
        before.c.adapter.label("old_adapter"),
        before.c.probability.label("old"),
        after.c.model,
        after.c.adapter,
        after.c.probability,
        after.c.threshold,
        after.c.judged_at,
    ]
    rows = await connection.execute(sa.select(*columns).select_from(joined).where(needs_now != needed, ~overtaken).order_by(newest.c.id.desc()).limit(FLIPS))
    return tuple([_flip(row) for row in rows])


def _flip(row: sa.Row[Any]) -> Flip:
    before, after = (model_name(row.old_model, row.old_adapter), row.old), (model_name(row.model, row.adapter), row.probability)
    return Flip(row.id, row.chat_name or row.chat_id, row.text, before, after, row.probability >= row.threshold, row.judged_at)


def model_name(model: str, adapter: str) -> str:
    """As exports name it: ``model`` or ``model+adapter``."""
    return f"{model}+{adapter}" if adapter else model


async def _labels(connection: AsyncConnection, disagreements: int) -> LabelCounts:
    async def count(statement: sa.Select[int]) -> int:
        return (await connection.execute(statement)).scalar_one()

    async def grouped(column: sa.Column[str]) -> list[tuple[str, int]]:
        number = sa.func.count()
        return [(name, n) for name, n in await connection.execute(sa.select(column, number).group_by(column).order_by(number.desc(), column))]

    return LabelCounts(
        questions=await count(sa.select(sa.func.count()).select_from(questions)),
        labelled=await count(sa.select(sa.func.count(labels.c.question_id.distinct()))),
        by_value=dict(await grouped(labels.c.label)),
        by_labeller=tuple(await grouped(labels.c.labeller)),
        queued=await count(sa.select(sa.func.count()).select_from(review_queue)),
        disagreements=disagreements,
    )


async def _models(connection: AsyncConnection) -> tuple[ModelVersion, ...]:
    version = (verdicts.c.model, verdicts.c.adapter, verdicts.c.prompt_version)
    last_seen = sa.func.max(verdicts.c.judged_at)
    statement = sa.select(*version, sa.func.count(), last_seen).group_by(*version).order_by(last_seen.desc())
    return tuple([ModelVersion(*row) for row in await connection.execute(statement)])


async def _waiting(connection: AsyncConnection) -> Waiting:
    unfinished = sa.select(sa.func.count()).where(questions.c.status != "done")
    pending = sa.select(sa.func.count()).where(replies.c.state == ReplyState.PENDING.value)
    newest = sa.select(messages.c.received_at).order_by(messages.c.id.desc()).limit(1)
    counts = [(await connection.execute(statement)).scalar_one() for statement in (unfinished, pending)]
    return Waiting(counts[0], counts[1], (await connection.execute(newest)).scalar_one_or_none())


def _with_newest(source: sa.FromClause, question_id: sa.ColumnElement[str], *tables: sa.Table, acted_on: bool = False) -> tuple[sa.FromClause, list[sa.FromClause]]:
    """``source`` joined with the newest row of each table for its question: one look into the index on (question_id, id) each.

    ``acted_on``: of the verdicts the newest that the bot itself acted on, not what was judged again later.
    """
    joined, newest = source, []
    for table in tables:
        row, inner = table.alias(), table.alias()
        newest_id = sa.select(sa.func.max(inner.c.id)).where(inner.c.question_id == question_id)
        if acted_on and table is verdicts:
            newest_id = newest_id.where(inner.c.relabelled.is_(False))
        joined = joined.outerjoin(row, row.c.id == newest_id.scalar_subquery())
        newest.append(row)
    return joined, list(newest)
