from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.messages import Recall
from storage.engine import Database, open_database
from storage.inbox import SqlInbox
from storage.labels import LabelValue, SqlLabels
from storage.members import SqlMembers
from storage.models import review_queue
from storage.questions import SqlQuestionLog
from storage.review_queue import QueueItem, QueueReason, SqlReviewQueue
from tests.storage.samples import START, StillClock, ask, bytes_on_disk, message


def item(number: int, priority: float, reason: QueueReason = QueueReason.DISAGREEMENT, detail: str = "") -> QueueItem:
    return QueueItem(message(number).key, reason, priority, detail)


@pytest.fixture
async def queue(database: Database) -> SqlReviewQueue:
    said = [message(number, sender=f"u{number}") for number in range(5)]
    await SqlInbox(database).add(said)
    await SqlQuestionLog(database).record_many([ask(one) for one in said])
    return SqlReviewQueue(database)


async def test_highest_priority_first_and_each_question_once(queue: SqlReviewQueue, clock: StillClock) -> None:
    assert await queue.put([item(1, 2.0), item(2, 5.0), item(3, 3.0)]) == 3
    clock.forward(hours=1)
    assert await queue.put([item(1, 4.0, QueueReason.COMPLAINT, "👎"), item(2, 1.0, QueueReason.NEW_WORDS), item(4, 0.5)]) == 1
    top = await queue.top(10)
    assert [(entry.question_id, entry.priority, entry.reason) for entry in top] == [
        (message(2).key, 5.0, QueueReason.DISAGREEMENT),
        (message(1).key, 4.0, QueueReason.COMPLAINT),
        (message(3).key, 3.0, QueueReason.DISAGREEMENT),
        (message(4).key, 0.5, QueueReason.DISAGREEMENT),
    ]
    assert (top[1].detail, top[1].created_at) == ("👎", START), "what waits keeps its place in time"
    assert await queue.top(2) == top[:2]


async def test_the_best_of_one_call_counts_and_unknown_questions_are_skipped(queue: SqlReviewQueue) -> None:
    assert await queue.put([item(1, 1.0), item(1, 9.0), item(1, 3.0), item(77, 99.0)]) == 1
    assert [(entry.question_id, entry.priority) for entry in await queue.top(5)] == [(message(1).key, 9.0)]
    assert await queue.put([]) == 0


async def test_who_has_labelled_a_question_does_not_see_it_again(queue: SqlReviewQueue, database: Database) -> None:
    await queue.put([item(1, 1.0), item(2, 2.0)])
    await SqlLabels(database).add(message(2).key, "anna", LabelValue.YES)
    assert [entry.question_id for entry in await queue.top(5, exclude_labelled_by="anna")] == [message(1).key]
    assert len(await queue.top(5, exclude_labelled_by="ben")) == len(await queue.top(5)) == 2


async def test_removing(queue: SqlReviewQueue) -> None:
    await queue.put([item(number, number) for number in range(5)])
    await queue.remove([message(1).key, message(4).key, "feishu:g1:never"])
    await queue.remove([])
    assert await queue.size() == 3


@pytest.mark.sqlite
async def test_an_entry_goes_with_its_question(queue: SqlReviewQueue, database: Database, clock: StillClock, path: Path) -> None:
    await queue.put([item(number, number, QueueReason.NEW_WORDS, f"quokka{number}") for number in range(5)])
    assert b"quokka1" in bytes_on_disk(path)
    await SqlInbox(database).recall(Recall("feishu", "g1", "m1", START))
    assert await SqlMembers(database).forget("feishu", "u2") == 1
    assert await SqlMembers(database).opt_out("feishu", "u3") == 1
    assert {entry.question_id for entry in await queue.top(9)} == {message(0).key, message(4).key}
    clock.forward(days=40)
    await SqlMembers(database).retain(30)
    assert await queue.size() == 0
    assert b"quokka" not in bytes_on_disk(path)


async def test_two_processes_queue_into_one_file(queue: SqlReviewQueue, url: str) -> None:
    other_database = await open_database(url)
    other = SqlReviewQueue(other_database)
    new = await asyncio.gather(*(each.put([item(number, number + boost)]) for number in range(5) for boost, each in ((0.0, queue), (0.5, other))))
    assert sum(new) == 5
    assert {entry.priority for entry in await queue.top(9)} == {0.5, 1.5, 2.5, 3.5, 4.5}
    await other_database.close()


@pytest.mark.sqlite
async def test_the_next_item_of_100_000_comes_from_an_index_in_time(database: Database, path: Path) -> None:
    with sqlite3.connect(path) as raw:
        ids = [f"feishu:g1:q{number}" for number in range(100_000)]
        raw.executemany(
            "INSERT INTO questions (id, platform, chat_id, chat_name, sender_id, sender, text, asked_at, context, message_ids, glossary, rule, status, created_at)"
            " VALUES (?, 'feishu', 'g1', '', 'u', 'u', '?', '2026-03-01 09:00:00', '[]', '[]', '[]', 'how', 'done', '2026-03-01 09:00:00')",
            zip(ids, strict=True),
        )
        raw.executemany("INSERT INTO review_queue VALUES (?, 'refused', ?, '', '2026-03-01 09:00:00')", [(one, number % 977) for number, one in enumerate(ids)])
        labelled = [(one, "anna") for number, one in enumerate(ids) if number % 977 > 900]
        raw.executemany("INSERT INTO labels (question_id, labeller, label, created_at) VALUES (?, ?, 'no', '2026-03-01 09:00:00')", labelled)
    queue = SqlReviewQueue(database)
    took = []
    for _ in range(5):
        began = time.process_time()
        (top,) = await queue.top(1, exclude_labelled_by="anna")
        took.append(time.process_time() - began)
        assert top.priority == 900
    assert min(took) < 0.1
    async with database.read() as connection:
        statement = sa.select(review_queue).order_by(review_queue.c.priority.desc(), review_queue.c.question_id.desc()).limit(1)
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement.compile(compile_kwargs={'literal_binds': True}, dialect=connection.dialect)}")
        steps = [row[-1] for row in plan]
    assert any("ix_review_queue_priority" in step for step in steps)
    assert not any("TEMP B-TREE" in step for step in steps)
