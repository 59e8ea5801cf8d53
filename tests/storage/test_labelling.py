"""Which question comes next for whom, and that finding it stays quick in a long log."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.messages import Recall
from scripts.benchmarks.pages import COUNT, fill
from storage.engine import Database, open_database
from storage.inbox import SqlInbox
from storage.labelling import OVERLAP_EVERY, REPEAT_DISTANCE, REPEAT_EVERY, Answer, Given, Item, Progress, Source, SqlLabelling, newest_unlabelled
from storage.labels import LabelValue, SqlLabels
from storage.models import label_repeats
from storage.questions import SqlQuestionLog
from storage.review_queue import QueueItem, QueueReason, SqlReviewQueue
from tests.storage.samples import StillClock, ask, message


async def record(database: Database, count: int) -> list[str]:
    """Questions ``m1`` to ``m<count>``, oldest first."""
    said = [message(number) for number in range(1, count + 1)]
    await SqlInbox(database).add(said)
    await SqlQuestionLog(database).record_many([ask(one) for one in said])
    return [one.key for one in said]


async def answer(database: Database, item: Item, labeller: str = "anna", label: LabelValue = LabelValue.YES) -> Given:
    given = await SqlLabelling(database).give(Answer(item.logged.question.id, labeller, label, None, item.source, item.seen))
    assert given is not None
    return given


async def next_of(database: Database, labeller: str = "anna", avoid: tuple[str, ...] = ()) -> tuple[str, Source] | None:
    item = await SqlLabelling(database).next_item(labeller, avoid)
    return None if item is None else (item.logged.question.id, item.source)


async def test_the_review_queue_comes_first_then_what_nobody_has_labelled_newest_first(database: Database) -> None:
    ids = await record(database, 5)
    await SqlReviewQueue(database).put([QueueItem(ids[0], QueueReason.REFUSED, 1.0), QueueItem(ids[2], QueueReason.COMPLAINT, 9.0)])
    order = []
    while (item := await SqlLabelling(database).next_item("anna")) is not None:
        order.append((item.logged.question.id, item.source))
        await answer(database, item)
    assert order == [(ids[2], Source.QUEUE), (ids[0], Source.QUEUE), (ids[4], Source.FRESH), (ids[3], Source.FRESH), (ids[1], Source.FRESH)]
    assert await SqlReviewQueue(database).size() == 0


async def test_what_is_avoided_is_passed_over_everywhere(database: Database) -> None:
    ids = await record(database, 3)
    await SqlReviewQueue(database).put([QueueItem(ids[0], QueueReason.REFUSED, 1.0)])
    assert await next_of(database, avoid=(ids[0],)) == (ids[2], Source.FRESH)
    assert await next_of(database, avoid=(ids[0], ids[2])) == (ids[1], Source.FRESH)
    assert await next_of(database, avoid=tuple(ids)) is None


async def test_a_suspect_label_comes_back_to_the_one_who_gave_it(database: Database) -> None:
    (question,) = await record(database, 1)
    await SqlLabels(database).add(question, "anna", LabelValue.NO)
    assert await next_of(database) is None
    await SqlReviewQueue(database).put([QueueItem(question, QueueReason.SUSPECT_LABEL, 1.0)])
    item = await SqlLabelling(database).next_item("anna")
    assert item is not None
    assert item.source is Source.QUEUE
    await answer(database, item, label=LabelValue.YES)
    assert [label.label for label in await SqlLabels(database).of_question(question)] == [LabelValue.NO, LabelValue.YES]
    assert await next_of(database) is None


@pytest.mark.parametrize("pace", [0, 5])
async def test_one_answer_in_twenty_is_a_second_look_at_something_not_fresh_in_mind(database: Database, clock: StillClock, pace: float) -> None:
    await record(database, 100)
    shown: list[tuple[str, Source]] = []
    while (item := await SqlLabelling(database).next_item("anna")) is not None and len(shown) < 100:
        shown.append((item.logged.question.id, item.source))
        await answer(database, item)
        clock.forward(seconds=pace)
    places = [place for place, (_, source) in enumerate(shown) if source is Source.REPEAT]
    assert places == [REPEAT_EVERY - 1 + REPEAT_EVERY * n for n in range(5)]
    seen = [question for question, _ in shown]
    for place in places:
        assert seen[place] in seen[: place - REPEAT_DISTANCE]
    assert max(Counter(seen).values()) == 2
    async with database.read() as connection:
        assert len((await connection.execute(sa.select(label_repeats))).all()) == len(places)


async def test_which_one_comes_back_is_the_same_each_time_it_is_asked_for_and_differs_between_labellers(database: Database) -> None:
    ids = await record(database, 30)
    for name in ("anna", "ben", "carl"):
        for question in ids[: REPEAT_EVERY - 1]:
            await SqlLabels(database).add(question, name, LabelValue.NO)
    choices = [[await next_of(database, name) for _ in range(2)] for name in ("anna", "ben", "carl")]
    assert all(first == second and first is not None and first[1] is Source.REPEAT for first, second in choices)
    assert len({str(first) for first, _ in choices}) > 1


async def test_a_second_look_that_is_taken_back_comes_again(database: Database) -> None:
    ids = await record(database, 30)
    desk = SqlLabelling(database)
    for question in ids[: REPEAT_EVERY - 1]:
        await SqlLabels(database).add(question, "anna", LabelValue.NO)
    item = await desk.next_item("anna")
    assert item is not None
    given = await answer(database, item)
    assert given.second_look
    assert await next_of(database) == (ids[-1], Source.FRESH)
    assert await desk.last_answer("anna", database.now()) == given
    assert await desk.take_back(given)
    assert not await desk.take_back(given)
    assert await next_of(database) == (item.logged.question.id, Source.REPEAT)


async def test_now_and_then_a_labeller_gets_what_another_has_labelled_and_at_the_end_all_of_it(database: Database) -> None:
    ids = await record(database, 40)
    for question in ids[:15]:
        await SqlLabels(database).add(question, "ben", LabelValue.NO)
    sources: list[Source] = []
    answered: list[str] = []
    while (item := await SqlLabelling(database).next_item("anna")) is not None:
        sources.append(item.source)
        answered.append(item.logged.question.id)
        await answer(database, item)
        if len(sources) > 60:
            break
    first = [place for place, source in enumerate(sources) if source is Source.OVERLAP]
    assert first[0] == OVERLAP_EVERY - 1
    assert answered[first[0]] == ids[14]
    fresh = [place for place, source in enumerate(sources) if source is Source.FRESH]
    assert len(fresh) == 25
    assert {answered[place] for place in first} == set(ids[:15])
    assert set(sources[fresh[-1] + 1 :]) <= {Source.OVERLAP, Source.REPEAT}


async def test_an_answer_to_an_erased_question_is_told(database: Database) -> None:
    (question,) = await record(database, 1)
    item = await SqlLabelling(database).next_item("anna")
    assert item is not None
    await SqlInbox(database).recall(Recall("feishu", "g1", "m1", database.now()))
    assert await SqlLabelling(database).give(Answer(question, "anna", LabelValue.YES, None, item.source, item.seen)) is None
    assert await SqlLabelling(database).item(question, "anna", Source.FRESH) is None


async def test_progress_and_pace(database: Database, clock: StillClock) -> None:
    ids = await record(database, 6)
    desk = SqlLabelling(database)
    assert await desk.progress("anna") == Progress(6, 0, 0, 0, None)
    await SqlReviewQueue(database).put([QueueItem(ids[5], QueueReason.REFUSED, 1.0)])
    for question in ids[:2]:
        await SqlLabels(database).add(question, "anna", LabelValue.NO)
    clock.forward(hours=2)  # a pause is no slow answer
    for question in (*ids[:2], ids[2]):
        await SqlLabels(database).add(question, "anna", LabelValue.NO)
        clock.forward(seconds=10)
    await SqlLabels(database).add(ids[3], "ben", LabelValue.NO)
    assert await desk.progress("anna") == Progress(6, 4, 3, 1, 6.0)
    clock.forward(minutes=5)
    assert (await desk.progress("anna")).pace is None


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100,000 questions, all but the oldest labelled."""
    path = tmp_path_factory.mktemp("long") / "long.db"

    async def create() -> None:
        await (await open_database(f"sqlite:///{path}")).close()

    asyncio.run(create())
    fill(path, COUNT, labelled=range(1, COUNT))
    return path


async def plan_of(database: Database, statement: sa.Select[Any]) -> str:
    async with database.read() as connection:
        compiled = statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        return "\n".join(row.detail for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}"))


@contextlib.contextmanager
def statements_noted() -> Iterator[list[tuple[str, Any]]]:
    """(SQL, parameters) of every statement of this process."""
    noted: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, context: object, many: bool) -> None:
        noted.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield noted
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


async def test_in_a_log_of_100_000_questions_the_next_one_is_found_by_indexes_alone(long_log: Path) -> None:
    """Every statement that leads to the next question and stores an answer is looked at: none reads a whole table, none sorts."""
    database = await open_database(f"sqlite:///{long_log}")
    with statements_noted() as noted:
        item = await SqlLabelling(database).next_item("carl")
        assert item is not None
        assert (item.logged.question.id, item.source) == ("q000000", Source.FRESH)
        await answer(database, item, "carl")
        assert await next_of(database, "carl") == ("q099999", Source.OVERLAP)
    looked_at = 0
    async with database.read() as connection:
        for statement, parameters in noted:
            if statement.startswith(("SELECT", "DELETE", "INSERT")):
                plan = [row.detail for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
                # "SCAN labels" alone walks back from the newest label, and its LIMIT ends it at the first that will do.
                assert not [step for step in plan if step.startswith("SCAN") and "INDEX" not in step and (step != "SCAN labels" or "LIMIT" not in statement)], (statement, plan)
                assert not [step for step in plan if "TEMP B-TREE" in step], (statement, plan)
                looked_at += bool(plan)
    assert looked_at > 10
    await database.close()


@pytest.mark.sqlite
async def test_what_nobody_has_labelled_is_read_from_two_indexes(database: Database) -> None:
    plan = await plan_of(database, newest_unlabelled(3))
    assert "SCAN questions USING COVERING INDEX ix_questions_asked" in plan
    assert re.search(r"SEARCH labels USING (COVERING )?INDEX ix_labels_question", plan)
