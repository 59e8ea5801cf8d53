from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from core.messages import RefusalReason, Resolution, Utterance
from core.ports import Unmerged
from storage.engine import Database
from storage.inbox import SqlInbox
from storage.labels import LabelValue, SqlLabels
from storage.questions import QuestionCounts, SqlQuestionLog
from tests.storage.samples import START, ask, message, resolution, verdict


@pytest.fixture
def inbox(database: Database) -> SqlInbox:
    return SqlInbox(database)


@pytest.fixture
def log(database: Database) -> SqlQuestionLog:
    return SqlQuestionLog(database)


async def test_a_question_comes_back_as_it_was_recorded_once(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    await inbox.add([message(1), message(2)])
    utterance, question = ask(message(2), context=(message(1),))
    question = replace(question, quotes_unseen=True)
    await log.record(utterance, question)
    await log.record(utterance, question)
    assert await log.unjudged() == [question]
    assert await inbox.unmerged() == Unmerged((message(1), message(2)), frozenset({message(2).key}))


async def test_record_many_is_the_same_as_many_records(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    await inbox.add([message(number) for number in range(20)])
    entries = [ask(message(number)) for number in range(20)]
    await log.record_many(entries[:10])
    await log.record_many([])
    await asyncio.gather(*(log.record(*entry) for entry in entries[10:]))
    assert await log.unjudged() == [question for _, question in entries]
    assert (await inbox.unmerged()).messages == ()


async def test_what_is_left_to_do_after_each_step(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    await inbox.add([message(number) for number in range(3)])
    plain, needing, waiting = (ask(message(number)) for number in range(3))
    for entry in (plain, needing, waiting):
        await log.record(*entry)
    await log.judged(plain[1].id, verdict(0.1))
    await log.judged(needing[1].id, verdict(0.9))
    assert [question.id for question in await log.unjudged()] == [needing[1].id, waiting[1].id]
    assert [logged.verdict for logged in await log.unfinished()] == [verdict(0.9), None]
    await log.resolved(needing[1].id, Resolution("x", None, 0.2, "tiny", "v1", RefusalReason.UNSURE))
    assert [question.id for question in await log.unjudged()] == [waiting[1].id]
    assert await log.counts() == QuestionCounts(utterances=3, questions=3, judged=2, needs_resolution=1, resolved=0)


async def test_a_second_verdict_is_current_and_the_first_is_kept(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    await inbox.add([message(1)])
    _, question = entry = ask(message(1))
    await log.record(*entry)
    await log.judged(question.id, verdict(0.1, "small"))
    await log.judged(question.id, verdict(0.8, "large"))
    assert await log.unjudged() == [question]
    await log.resolved(question.id, resolution("怎么把 mmpose 部署？"))
    await log.judged(question.id, verdict(0.7, "larger"))
    assert await log.unjudged() == []
    logged = await log.get(question.id)
    assert logged is not None
    assert logged.verdict == verdict(0.7, "larger")
    assert logged.resolution == resolution("怎么把 mmpose 部署？")
    assert [v.model for v in await log.verdicts(question.id)] == ["small", "large", "larger"]
    assert (await log.counts()).resolved == 1


async def test_verdicts_for_one_question_in_one_batch_end_with_the_last(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    await inbox.add([message(1)])
    _, question = entry = ask(message(1))
    await log.record(*entry)
    await asyncio.gather(log.judged(question.id, verdict(0.9)), log.judged(question.id, verdict(0.1)))
    assert await log.unjudged() == []
    await asyncio.gather(log.judged(question.id, verdict(0.1)), log.judged(question.id, verdict(0.9)))
    assert await log.unjudged() == [question]


async def test_export_in_order_of_asking_over_several_pages(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    numbers = [*range(600, 1200), *range(600)]
    await inbox.add([message(number) for number in numbers])
    await log.record_many([ask(message(number)) for number in numbers])
    rows = [row.question.message_ids[0] async for row in log.export_rows()]
    assert rows == [f"m{number}" for number in range(1200)]
    late = [row async for row in log.export_rows(since=START + timedelta(seconds=1190))]
    assert len(late) == 10


async def test_questions_of_one_instant_are_all_exported(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    same = [replace(message(number), sent_at=START) for number in range(700)]
    await inbox.add(same)
    await log.record_many([ask(one) for one in same])
    assert len({row.question.id async for row in log.export_rows()}) == 700


async def test_only_labelled_rows_and_the_newest_label(inbox: SqlInbox, log: SqlQuestionLog, database: Database) -> None:
    labels = SqlLabels(database)
    await inbox.add([message(1), message(2)])
    for number in (1, 2):
        await log.record(*ask(message(number)))
    await labels.add(message(2).key, "anna", LabelValue.NO)
    await labels.add(message(2).key, "ben", LabelValue.YES, "怎么把 mmpose 部署？")
    (row,) = [row async for row in log.export_rows(labelled=True)]
    assert row.label is not None
    assert (row.question.id, row.label.label, row.label.rewrite) == (message(2).key, LabelValue.YES, "怎么把 mmpose 部署？")


async def test_an_empty_log_has_nothing(log: SqlQuestionLog) -> None:
    assert [row async for row in log.export_rows()] == []
    assert await log.counts() == QuestionCounts(0, 0, 0, 0, 0)
    assert await log.get("nobody") is None


async def test_utterances_with_and_without_question(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    await inbox.add([message(1), message(2), message(3)])
    await log.record(Utterance((message(1), message(3))), None)
    await log.record(*ask(message(2)))
    assert (await log.counts()).utterances == 2
