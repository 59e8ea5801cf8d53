from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from core.messages import ConversationKey, RefusalReason, Resolution, Verdict
from core.ports import OutgoingReply
from storage import review_filling
from storage.engine import Database
from storage.groups import SqlGroups
from storage.inbox import SqlInbox
from storage.labelling import Answer, Source, SqlLabelling
from storage.labels import LabelValue, SqlLabels
from storage.outbox import SqlOutbox
from storage.questions import SqlQuestionLog
from storage.review_filling import fill_review_queue
from storage.review_queue import QueueReason, SqlReviewQueue
from storage.review_reasons import Choice, choose
from storage.verdicts import SqlVerdicts
from tests.storage.samples import START, StillClock, ask, message

GROUP = ConversationKey("feishu", "g1")
SURE, UNSURE, NO = Verdict(0.99, 0.5, "tiny", "v1"), Verdict(0.52, 0.5, "tiny", "v1"), Verdict(0.01, 0.5, "tiny", "v1")
TEXTS = (
    "ncnn 的量化工具怎么用？",  # 0: before the time that is looked at
    "ncnn 的量化工具怎么装？",  # 1: no new words, sure
    "它支持 openvino 么",  # 2: new words
    "怎么把它部署到 TX2？",  # 3: models disagree
    "请问怎么把它部署到tx2呢",  # 4: so do they here
    "那量化之后工具呢",  # 5: near the threshold
    "ncnn 的工具量化怎么用呢",  # 6: refused
    "这个量化工具不对吧",  # 7: a member complained
    "工具怎么用啊",  # 8: near the threshold, but labelled
)


@pytest.fixture
async def ids(database: Database, clock: StillClock) -> list[str]:
    said = [message(number * 60, text) for number, text in enumerate(TEXTS)]
    await SqlInbox(database).add(said)
    log = SqlQuestionLog(database)
    await log.record_many([ask(one) for one in said])
    ids = [one.key for one in said]
    for key, verdict in zip(ids, (SURE, SURE, SURE, SURE, SURE, UNSURE, SURE, SURE, UNSURE), strict=True):
        await log.judged(key, verdict)
        if verdict is SURE:
            await log.resolved(key, Resolution("好", "好", 0.9, "tiny", "v1"))
    await log.resolved(ids[6], Resolution("坏", None, 0.4, "tiny", "v1", RefusalReason.UNSURE))
    await SqlVerdicts(database).append([(ids[3], Verdict(0.2, 0.5, "big", "v1")), (ids[4], Verdict(0.1, 0.5, "big", "v1"))])
    await SqlOutbox(database).enqueue(OutgoingReply(GROUP, "答", f"reply:{ids[7]}", reply_to="m420"))
    await SqlOutbox(database).sent(f"reply:{ids[7]}", "om_1")
    clock.forward(hours=1)
    assert await SqlGroups(database).wrong(GROUP, "om_1")
    await SqlLabels(database).add(ids[8], "anna", LabelValue.YES)
    return ids


async def test_each_reason_is_found_in_its_order_and_questions_alike_once(database: Database, ids: list[str]) -> None:
    filled = await fill_review_queue(database, START + timedelta(seconds=30), 100)
    queue = await SqlReviewQueue(database).top(100)
    assert [(item.question_id, item.reason) for item in queue] == [
        (ids[7], QueueReason.COMPLAINT),
        (ids[4], QueueReason.DISAGREEMENT),
        (ids[6], QueueReason.REFUSED),
        (ids[5], QueueReason.NEAR_THRESHOLD),
        (ids[2], QueueReason.NEW_WORDS),
    ]
    assert queue[4].detail == "openvino"
    assert (filled.added, filled.size, filled.duplicates) == (5, 5, 1)
    assert filled.reasons == {item.reason: 1 for item in queue}
    again = await fill_review_queue(database, START + timedelta(seconds=30), 100)
    assert (again.added, again.size) == (0, 5)


async def test_the_queue_is_kept_to_its_size_and_labelling_makes_room(database: Database, ids: list[str]) -> None:
    await fill_review_queue(database, START + timedelta(seconds=30), 100)
    assert (await fill_review_queue(database, START + timedelta(seconds=30), 2)).size == 2
    queue = SqlReviewQueue(database)
    assert [item.question_id for item in await queue.top(9)] == [ids[7], ids[4]]
    await SqlLabels(database).add(ids[4], "anna", LabelValue.YES)
    await queue.remove([ids[4]])
    await fill_review_queue(database, START + timedelta(seconds=30), 2)
    assert [item.question_id for item in await queue.top(9)] == [ids[7], ids[6]], "neither the labelled one nor the one like it comes back"


async def test_a_complaint_about_an_old_question_is_heard(database: Database, ids: list[str]) -> None:
    await fill_review_queue(database, START + timedelta(minutes=30), 100)
    assert [item.question_id for item in await SqlReviewQueue(database).top(9)] == [ids[7]]


async def test_an_empty_log(database: Database) -> None:
    assert (await fill_review_queue(database, START, 100)).size == 0


async def test_what_is_labelled_while_the_queue_is_being_filled_does_not_come_back(database: Database, ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing among many questions takes seconds, in which somebody labels on."""
    loop, desk = asyncio.get_running_loop(), SqlLabelling(database)

    async def answer() -> None:
        for question in (ids[5], ids[7]):
            assert await desk.give(Answer(question, "anna", LabelValue.NO, None, Source.QUEUE, 0)) is not None

    def slowly(*arguments: Any) -> Choice:
        asyncio.run_coroutine_threadsafe(answer(), loop).result(timeout=30)
        return choose(*arguments)

    await fill_review_queue(database, START + timedelta(seconds=30), 100)
    monkeypatch.setattr(review_filling, "choose", slowly)
    await fill_review_queue(database, START + timedelta(seconds=30), 100)
    waiting = {item.question_id for item in await SqlReviewQueue(database).top(100)}
    assert ids[2] in waiting
    assert waiting.isdisjoint({ids[5], ids[7]})
