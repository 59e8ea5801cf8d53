"""What the labelling page asks of the database: the next question for a labeller, one answer in one transaction, taking it back, progress and pace."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.engine import Database, insert_new
from storage.erasure import without_lost_words
from storage.labels import Label, LabelValue, label_of
from storage.models import label_repeats, labels, questions, review_queue
from storage.questions import LoggedQuestion, SqlQuestionLog
from storage.review_queue import QueueItem, QueueReason, SqlReviewQueue

REPEAT_EVERY = 20
"""One answer in so many is given to a question that the labeller has judged before: 5 %."""
REPEAT_DISTANCE = 10
"""Answers between the first look and the second, at least: nobody should remember the first."""
OVERLAP_EVERY = 10
"""One answer in so many is given to a question that somebody else has labelled, so that agreement between labellers can be told."""
_REPEAT_WINDOW = 200
_PACE_ANSWERS = 20
_PAUSE = timedelta(minutes=3)


class Source(StrEnum):
    """Why a question is shown: a second look, the review queue, labelled by another, not labelled yet, or taken back by the labeller."""

    REPEAT = "repeat"
    QUEUE = "queue"
    OVERLAP = "overlap"
    FRESH = "fresh"
    TAKEN_BACK = "taken_back"


@dataclass(frozen=True, slots=True)
class Item:
    """A question to be labelled. ``seen``: id of the labeller's newest label for it, 0 where there is none."""

    logged: LoggedQuestion
    source: Source
    seen: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a labeller said of an :class:`Item`. ``lines``: of its context, as they were shown."""

    question_id: str
    labeller: str
    label: LabelValue
    rewrite: str | None
    source: Source
    seen: int
    lines: int = 0


@dataclass(frozen=True, slots=True)
class Given:
    """A stored answer. ``queued``: the entry that left the review queue for it; ``second_look``: it was noted as a second look."""

    label: Label
    queued: QueueItem | None = None
    second_look: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """``questions`` and ``labelled`` (by anybody) are totals; ``mine``: questions that this labeller labelled.

    ``pace``: answers a minute since the last pause, None for too few.
    """

    questions: int
    labelled: int
    mine: int
    queued: int
    pace: float | None


class SqlLabelling:
    """Repository of the labelling page. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._log, self._queue = SqlQuestionLog(database), SqlReviewQueue(database)

    async def next_item(self, labeller: str, avoid: Collection[str] = ()) -> Item | None:
        """The question to show next, without those of ``avoid``; None when there is none.

        A second look when one is due, else the head of the review queue, else now and then what another has labelled, else the newest question without a label, else what
        others have labelled and this labeller has not.
        """
        avoided = set(avoid)
        while (found := await self._pick(labeller, avoided)) is not None:
            question_id, source = found
            item = await self.item(question_id, labeller, source)
            if item is not None:
                return item
            avoided.add(question_id)  # erased since the look into the index
        return None

    async def item(self, question_id: str, labeller: str, source: Source) -> Item | None:
        """One question, or None when it is not in the log any more."""
        logged = await self._log.get(question_id)
        if logged is None:
            return None
        async with self._database.read() as connection:
            return Item(logged, source, (await connection.execute(_newest_by(question_id, labeller))).scalar_one() or 0)

    async def give(self, answer: Answer) -> Given | None:
        """Store an answer: the label, the second look if it is one, and the question leaves the review queue. None when the question was erased meanwhile.

        The same answer sent again (its first response was lost) is stored once. A rewrite that may hold words of a line that was erased meanwhile is not stored.
        """
        return await self._database.writer.submit(self._give, answer)

    async def take_back(self, given: Given) -> bool:
        """Undo :meth:`give`. False when the label is gone already."""
        return await self._database.writer.submit(self._take_back, given)

    async def last_answer(self, labeller: str, since: datetime) -> Given | None:
        """The newest label that ``labeller`` gave at ``since`` or later, to be taken back."""
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(labels).where(labels.c.labeller == labeller).order_by(labels.c.id.desc()).limit(1))).first()
            if row is None or row.created_at < since:
                return None
            repeat = sa.select(label_repeats.c.created_at).where(label_repeats.c.question_id == row.question_id, label_repeats.c.labeller == labeller)
            second_look = (await connection.execute(repeat)).scalar_one_or_none() == row.created_at
            return Given(label_of(row), second_look=second_look)

    async def progress(self, labeller: str) -> Progress:
        counts = [
            sa.select(sa.func.count()).select_from(questions),
            sa.select(sa.func.count(labels.c.question_id.distinct())),
            sa.select(sa.func.count(labels.c.question_id.distinct())).where(labels.c.labeller == labeller),
            sa.select(sa.func.count()).select_from(review_queue),
        ]
        latest = sa.select(labels.c.created_at).where(labels.c.labeller == labeller).order_by(labels.c.id.desc()).limit(_PACE_ANSWERS)
        async with self._database.read() as connection:
            totals = [(await connection.execute(count)).scalar_one() for count in counts]
            times = list((await connection.execute(latest)).scalars())
        total, labelled, mine, queued = totals
        return Progress(total, labelled, mine, queued, _pace(times, self._database.now()))

    async def _pick(self, labeller: str, avoid: set[str]) -> tuple[str, Source] | None:
        async with self._database.read() as connection:
            if (repeat := await _due_repeat(connection, labeller, avoid)) is not None:
                return repeat, Source.REPEAT
        if (queued := _first([item.question_id for item in await self._queue.top(len(avoid) + 1)], avoid)) is not None:
            return queued, Source.QUEUE
        async with self._database.read() as connection:
            overlap = _labelled_by_others(labeller, len(avoid) + 1)
            if (await connection.execute(count_by(labeller))).scalar_one() % OVERLAP_EVERY == OVERLAP_EVERY - 1:
                common = _first(list((await connection.execute(overlap)).scalars()), avoid)
                if common is not None:
                    return common, Source.OVERLAP
            fresh = _first(list((await connection.execute(newest_unlabelled(len(avoid) + 1))).scalars()), avoid)
            if fresh is not None:
                return fresh, Source.FRESH
            common = _first(list((await connection.execute(overlap)).scalars()), avoid)
            return None if common is None else (common, Source.OVERLAP)

    def _give(self, connection: Connection, answers: Sequence[Answer]) -> list[Given | None]:
        return [_store(connection, answer, self._database.now()) for answer in answers]

    def _take_back(self, connection: Connection, items: Sequence[Given]) -> list[bool]:
        return [_remove(connection, given) for given in items]


def newest_unlabelled(limit: int) -> sa.Select[str]:
    """Ids of the newest questions that nobody has labelled; both sides are read from indexes alone."""
    labelled = sa.exists().where(labels.c.question_id == questions.c.id)
    return sa.select(questions.c.id).where(~labelled).order_by(questions.c.asked_at.desc(), questions.c.id.desc()).limit(limit)


def count_by(labeller: str) -> sa.Select[int]:
    """Number of answers that a labeller has given."""
    return sa.select(sa.func.count()).where(labels.c.labeller == labeller)


def _labelled_by_others(labeller: str, limit: int) -> sa.Select[str]:
    """Ids of the questions that others labelled last and this labeller has not."""
    mine = labels.alias("mine")
    seen = sa.exists().where(mine.c.question_id == labels.c.question_id, mine.c.labeller == labeller)
    later = labels.alias("later")
    # Of several labels of one question the newest stands for it.
    overtaken = sa.exists().where(later.c.question_id == labels.c.question_id, later.c.id > labels.c.id)
    return sa.select(labels.c.question_id).where(labels.c.labeller != labeller, ~seen, ~overtaken).order_by(labels.c.id.desc()).limit(limit)


async def _due_repeat(connection: AsyncConnection, labeller: str, avoid: Collection[str]) -> str | None:
    """The question of a second look, when the last ``REPEAT_EVERY - 1`` answers held none. Which one follows from the labeller and the newest answer alone."""
    mine = sa.select(labels.c.id, labels.c.question_id, labels.c.created_at).where(labels.c.labeller == labeller).order_by(labels.c.id.desc())
    rows = (await connection.execute(mine.limit(_REPEAT_WINDOW))).all()
    if len(rows) < REPEAT_EVERY - 1:
        return None
    repeated = sa.select(label_repeats.c.question_id, label_repeats.c.created_at).where(label_repeats.c.labeller == labeller)
    past: dict[str, datetime] = {row.question_id: row.created_at for row in await connection.execute(repeated)}
    if any(past.get(row.question_id) == row.created_at for row in rows[: REPEAT_EVERY - 1]):
        return None
    fresh_in_mind = {row.question_id for row in rows[:REPEAT_DISTANCE]}
    candidates: list[str] = list(dict.fromkeys(row.question_id for row in rows[REPEAT_DISTANCE:] if row.question_id not in past and row.question_id not in fresh_in_mind))
    candidates = [question_id for question_id in candidates if question_id not in avoid]
    if not candidates:
        return None
    digest = hashlib.sha256(f"{labeller}\n{rows[0].id}".encode()).digest()
    return candidates[int.from_bytes(digest[:8]) % len(candidates)]


def _first(ids: Sequence[str], avoid: Collection[str]) -> str | None:
    return next((question_id for question_id in ids if question_id not in avoid), None)


def _newest_by(question_id: str, labeller: str) -> sa.Select[int | None]:
    return sa.select(sa.func.max(labels.c.id)).where(labels.c.question_id == question_id, labels.c.labeller == labeller)


def _store(connection: Connection, answer: Answer, now: datetime) -> Given | None:
    question = connection.execute(sa.select(questions.c.text, questions.c.context).where(questions.c.id == answer.question_id)).first()
    if question is None:
        return None
    answer = replace(answer, rewrite=without_lost_words(answer.rewrite, answer.lines, question))
    if (stored := _sent_before(connection, answer)) is not None:
        return stored
    values = {"question_id": answer.question_id, "labeller": answer.labeller, "label": answer.label.value, "rewrite": answer.rewrite, "created_at": now}
    row_id = connection.scalar(sa.insert(labels).returning(labels.c.id), values)
    second_look = False
    if answer.source is Source.REPEAT:
        noted = {"question_id": answer.question_id, "labeller": answer.labeller, "created_at": now}
        second_look = connection.execute(insert_new(connection.dialect.name, label_repeats), noted).rowcount > 0
    queued = _leave_queue(connection, answer.question_id)
    return Given(Label(answer.question_id, answer.labeller, answer.label, now, answer.rewrite, row_id or 0), queued, second_look)


def _sent_before(connection: Connection, answer: Answer) -> Given | None:
    """The label that an earlier attempt of the same answer stored."""
    since = (labels.c.question_id == answer.question_id, labels.c.labeller == answer.labeller, labels.c.id > answer.seen)
    row = connection.execute(sa.select(labels).where(*since).order_by(labels.c.id.desc()).limit(1)).first()
    if row is None or row.label != answer.label.value or row.rewrite != answer.rewrite:
        return None
    return Given(label_of(row), second_look=answer.source is Source.REPEAT)


def _leave_queue(connection: Connection, question_id: str) -> QueueItem | None:
    row = connection.execute(sa.select(review_queue).where(review_queue.c.question_id == question_id)).first()
    if row is None:
        return None
    connection.execute(sa.delete(review_queue).where(review_queue.c.question_id == question_id))
    return QueueItem(row.question_id, QueueReason(row.reason), row.priority, row.detail, row.created_at)


def _remove(connection: Connection, given: Given) -> bool:
    label, queued = given.label, given.queued
    # Of an erased label SQLite gives the id to the next one, which is somebody else's.
    this = (labels.c.id == label.id, labels.c.question_id == label.question_id, labels.c.labeller == label.labeller)
    if connection.execute(sa.delete(labels).where(*this)).rowcount == 0:
        return False
    if given.second_look:
        connection.execute(sa.delete(label_repeats).where(label_repeats.c.question_id == label.question_id, label_repeats.c.labeller == label.labeller))
    if queued is not None:
        row: dict[str, Any] = {
            "question_id": queued.question_id,
            "reason": queued.reason.value,
            "priority": queued.priority,
            "detail": queued.detail,
            "created_at": queued.created_at,
        }
        connection.execute(insert_new(connection.dialect.name, review_queue), row)
    return True


def _pace(times: Sequence[datetime], now: datetime) -> float | None:
    """Answers a minute since the last pause; ``times``: newest first."""
    if not times or now - times[0] > _PAUSE:
        return None
    sitting = [times[0]]
    for earlier in times[1:]:
        if sitting[-1] - earlier > _PAUSE:
            break
        sitting.append(earlier)
    seconds = (sitting[0] - sitting[-1]).total_seconds()
    return (len(sitting) - 1) * 60 / seconds if len(sitting) >= 3 and seconds > 0 else None
