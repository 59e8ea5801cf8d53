from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from core.groups import GroupState
from core.messages import ConversationKey, Recall, RefusalReason, Resolution
from core.ports import OutgoingReply
from storage.dashboard import LATEST, Funnel, GroupRow, LabelCounts, SqlDashboard, Waiting
from storage.engine import Database
from storage.groups import SqlGroups
from storage.inbox import SqlInbox
from storage.labels import LabelValue, SqlLabels
from storage.outbox import SqlOutbox
from storage.questions import SqlQuestionLog
from storage.review_queue import QueueItem, QueueReason, SqlReviewQueue
from storage.verdicts import SqlVerdicts
from tests.storage.samples import START, StillClock, ask, message, resolution, verdict

GROUP = ConversationKey("feishu", "g1")


async def log_day(database: Database) -> list[str]:
    """Six messages, of which one was recalled: five utterances, four questions, two of them in need, one resolved and answered."""
    said = [message(number) for number in range(1, 7)]
    await SqlInbox(database).add(said)
    await SqlInbox(database).recall(Recall("feishu", "g1", "m6", database.now()))
    log = SqlQuestionLog(database)
    asked = [ask(one, context=(said[0],)) for one in said[1:5]]
    await log.record_many([(ask(said[0])[0], None), *asked])
    ids = [question.id for _, question in asked]
    for question, probability in zip(ids, (0.9, 0.8, 0.1), strict=False):
        await log.judged(question, verdict(probability))
    await log.resolved(ids[0], resolution("完整一？"))
    await log.resolved(ids[1], Resolution("x", None, 0.2, "tiny", "v1", RefusalReason.UNSURE))
    for question in ids[:2]:
        await SqlOutbox(database).enqueue(OutgoingReply(GROUP, "完整一？", f"reply:{question}"))
    await SqlOutbox(database).sent(f"reply:{ids[0]}", "p1")
    return ids


async def test_the_funnel_counts_what_came_in_today_and_what_became_of_it(database: Database, clock: StillClock) -> None:
    await SqlInbox(database).add([message(90), message(91, chat="g2")])
    clock.forward(days=1)
    midnight = clock.time - timedelta(hours=9)
    ids = await log_day(database)
    assert (await SqlDashboard(database).snapshot(midnight)).funnel == Funnel(5, 5, 4, 2, 1, 1)
    await SqlVerdicts(database).append([(ids[2], verdict(0.9, model="newer"))])  # judging again changes nothing of what the bot did
    assert (await SqlDashboard(database).snapshot(midnight)).funnel == Funnel(5, 5, 4, 2, 1, 1)
    clock.forward(days=1)
    assert (await SqlDashboard(database).snapshot(clock.time - timedelta(hours=9))).funnel == Funnel(0, 0, 0, 0, 0, 0)


async def test_groups_by_their_last_message_with_what_their_admins_switched(database: Database, clock: StillClock) -> None:
    await SqlInbox(database).add([replace(message(1, chat="g2"), chat_name="")])
    clock.forward(days=1)
    await log_day(database)
    await SqlGroups(database).save(GROUP, GroupState(enabled=False))
    snapshot = await SqlDashboard(database).snapshot(clock.time)
    assert snapshot.groups == (
        GroupRow(GROUP, "技术群", 5, 4, START + timedelta(seconds=6), enabled=False),
        GroupRow(ConversationKey("feishu", "g2"), "g2", 0, 0, START + timedelta(seconds=1), enabled=True),
    )


async def test_the_latest_questions_with_context_decision_rewrite_or_reason_and_label(database: Database) -> None:
    ids = await log_day(database)
    await SqlLabels(database).add(ids[3], "anna", LabelValue.NO)
    await SqlLabels(database).add(ids[3], "anna", LabelValue.YES)
    latest = (await SqlDashboard(database).snapshot(START)).latest
    assert [(row.id, row.needs, row.probability, row.rewrite, row.reason, row.label) for row in latest] == [
        (ids[3], None, None, None, None, "yes"),
        (ids[2], False, 0.1, None, None, None),
        (ids[1], True, 0.8, None, "unsure", None),
        (ids[0], True, 0.9, "完整一？", None, None),
    ]
    assert [line.text for line in latest[0].context] == ["消息 1"]
    await SqlQuestionLog(database).record_many([])
    more = [message(number) for number in range(100, 100 + LATEST + 5)]
    await SqlInbox(database).add(more)
    await SqlQuestionLog(database).record_many([ask(one) for one in more])
    assert [row.id for row in (await SqlDashboard(database).snapshot(START)).latest] == [one.key for one in reversed(more[5:])]


async def test_flips_are_questions_whose_newest_verdict_decides_otherwise(database: Database) -> None:
    ids = await log_day(database)
    later = SqlVerdicts(database)
    await later.append([(ids[0], verdict(0.7, model="newer")), (ids[1], verdict(0.3, model="newer")), (ids[2], verdict(0.6, model="newer"))])
    await later.append([(ids[2], verdict(0.2, model="newest")), (ids[2], verdict(0.1, model="newest"))])  # it flipped back, then stayed
    flips = (await SqlDashboard(database).snapshot(START)).flips
    assert [(flip.id, flip.before, flip.after, flip.needs) for flip in flips] == [(ids[1], ("tiny+group-lora", 0.8), ("newer+group-lora", 0.3), False)]


async def test_labels_models_and_what_waits(database: Database, clock: StillClock) -> None:
    ids = await log_day(database)
    labels = SqlLabels(database)
    for labeller, value in (("anna", LabelValue.YES), ("anna", LabelValue.NO), ("ben", LabelValue.YES)):
        await labels.add(ids[0], labeller, value)
    await SqlReviewQueue(database).put([QueueItem(ids[1], QueueReason.REFUSED, 1.0)])
    clock.forward(hours=1)
    await SqlVerdicts(database).append([(ids[0], verdict(0.7, model="newer"))])
    snapshot = await SqlDashboard(database).snapshot(START)
    assert snapshot.labels == LabelCounts(4, 1, {"yes": 2, "no": 1}, (("anna", 2), ("ben", 1)), queued=1, disagreements=1)
    assert [(model.model, model.adapter, model.verdicts, model.last_seen) for model in snapshot.models] == [
        ("newer", "group-lora", 1, START + timedelta(hours=1)),
        ("tiny", "group-lora", 3, START),
    ]
    assert snapshot.waiting == Waiting(unfinished=1, replies=1, last_message_at=START)
    assert snapshot.jobs == ()


async def test_an_empty_database_has_a_dashboard(database: Database) -> None:
    snapshot = await SqlDashboard(database).snapshot(START)
    assert snapshot.funnel == Funnel(0, 0, 0, 0, 0, 0)
    assert snapshot.waiting == Waiting(0, 0, None)
