"""Filling the review queue from the log: reasons are looked for in what was asked lately, and of questions that are alike only one is queued."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from core.vocabulary import Vocabulary
from storage.engine import Database
from storage.groups import SqlGroups
from storage.models import labels, questions
from storage.questions import LoggedQuestion, SqlQuestionLog
from storage.review_queue import QueueItem, QueueReason, SqlReviewQueue
from storage.review_reasons import choose, reason_to_look
from storage.verdicts import SqlVerdicts

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Filled:
    """What a filling did. ``added``: questions that were not queued before; ``duplicates``: left out, for one like them is queued or labelled; ``reasons``: of the whole queue."""

    added: int
    size: int
    duplicates: int
    reasons: dict[QueueReason, int]


async def fill_review_queue(database: Database, since: datetime, size: int) -> Filled:
    """Queue what deserves a human eye among the questions asked at ``since`` or later and the complaints made since then; at most ``size`` entries wait. Raises StorageError."""
    queue = SqlReviewQueue(database)
    queued = await queue.top(await queue.size())
    vocabulary = await _vocabulary_before(database, since)
    complaints = {question_id: at for question_id, at in (await SqlGroups(database).complained()).items() if at >= since}
    candidates: list[QueueItem] = []
    texts: dict[str, str] = {}
    page: list[LoggedQuestion] = []

    async def look() -> None:
        verdicts = await SqlVerdicts(database).of_questions([logged.question.id for logged in page])
        for logged, new_words in zip(page, await asyncio.to_thread(_new_words, vocabulary, [logged.question.text for logged in page]), strict=True):
            question = logged.question
            item = reason_to_look(logged, verdicts.get(question.id, ()), complaints.get(question.id), new_words)
            if item is not None:
                candidates.append(item)
                texts[question.id] = question.text
        page.clear()

    async for logged in SqlQuestionLog(database).export_rows(since=since):
        page.append(logged)
        if len(page) == _PAGE:
            await look()
    await look()
    elsewhere = await SqlQuestionLog(database).get_many([question_id for question_id in (*complaints, *(item.question_id for item in queued)) if question_id not in texts])
    for question_id, logged in elsewhere.items():
        texts[question_id] = logged.question.text
        if question_id in complaints and (item := reason_to_look(logged, (), complaints[question_id], ())) is not None:
            candidates.append(item)
    choice = await asyncio.to_thread(choose, candidates, queued, texts, await _labelled_texts(database), size)
    await queue.remove(choice.left_out)
    added = await queue.put(choice.items)
    return Filled(added, await queue.size(), choice.duplicates, dict(Counter(item.reason for item in choice.items)))


def _new_words(vocabulary: Vocabulary, texts: list[str]) -> list[list[str]]:
    return [vocabulary.new_in(text) for text in texts]


async def _vocabulary_before(database: Database, since: datetime) -> Vocabulary:
    """The words of all questions that were asked before ``since``, page by page."""
    vocabulary, last = Vocabulary(), ""
    while True:
        statement = sa.select(questions.c.id, questions.c.text).where(questions.c.asked_at < since, questions.c.id > last).order_by(questions.c.id).limit(_PAGE)
        async with database.read() as connection:
            page = (await connection.execute(statement)).all()
        await asyncio.to_thread(_new_words, vocabulary, [row.text for row in page])
        if len(page) < _PAGE:
            return vocabulary
        last = page[-1].id


async def _labelled_texts(database: Database) -> list[str]:
    labelled = sa.exists().where(labels.c.question_id == questions.c.id)
    async with database.read() as connection:
        return list(await connection.scalars(sa.select(questions.c.text).where(labelled)))
