from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from core.messages import ConversationKey, Recall
from core.ports import OutgoingReply
from storage.engine import Database
from storage.inbox import SqlInbox
from storage.labels import LabelValue, SqlLabels
from storage.members import SqlMembers
from storage.models import adjudications, label_repeats, messages
from storage.outbox import ReplyState, SqlOutbox
from storage.questions import SqlQuestionLog
from storage.review_queue import QueueItem, QueueReason, SqlReviewQueue
from tests.storage.samples import START, StillClock, ask, bytes_on_disk, message, resolution, verdict

GROUP = ConversationKey("feishu", "g1")


@pytest.fixture
async def lived_in(database: Database) -> Database:
    """A member ``u-gone`` spoke, asked, was quoted, mentioned and answered."""
    inbox, log = SqlInbox(database), SqlQuestionLog(database)
    said = message(1, "大家用 zebrafish 吧", sender="u-gone")
    asked = message(2, "zebrafish 怎么装？", sender="u-gone")
    other = message(3, "怎么把它部署到 TX2？", sender="u2", mentions=("u-gone", "u5"))
    stays = message(4, "好的", sender="u3")
    await inbox.add([said, asked, other, stays])
    await log.record(*ask(asked, context=(said,)))
    await log.record(*ask(other, context=(said, asked, stays)))
    await log.judged(other.key, verdict(0.9))
    await log.resolved(other.key, resolution("怎么把 zebrafish 部署到 TX2？"))
    await SqlReviewQueue(database).put([QueueItem(key, QueueReason.NEW_WORDS, 1.0, "zebrafish") for key in (asked.key, other.key)])
    await SqlLabels(database).add(other.key, "anna", LabelValue.YES, "怎么把 zebrafish 部署到 TX2？")
    async with database._writer_engine.begin() as connection:
        await connection.execute(sa.insert(label_repeats), [{"question_id": key, "labeller": "anna", "created_at": START} for key in (asked.key, other.key)])
        settled = {"label": "yes", "adjudicator": "ben", "created_at": START, "rewrite": "怎么把 zebrafish 部署到 TX2？"}
        await connection.execute(sa.insert(adjudications), [{"question_id": key, **settled} for key in (asked.key, other.key)])
    await SqlOutbox(database).enqueue(OutgoingReply(GROUP, "zebrafish 这样装", "k1", reply_to="m2", mention="u-gone"))
    await SqlOutbox(database).enqueue(OutgoingReply(GROUP, "部署 zebrafish 要先转换模型", f"reply:{other.key}", reply_to="m3", mention="u2"))
    return database


@pytest.mark.sqlite
async def test_forget_leaves_no_trace_in_tables_or_file(lived_in: Database, path: Path) -> None:
    assert b"zebrafish" in bytes_on_disk(path)
    assert await SqlMembers(lived_in).forget("feishu", "u-gone") == 2
    rows = [row async for row in SqlQuestionLog(lived_in).export_rows()]
    (row,) = rows
    assert [line.text for line in row.question.context] == ["好的"]
    assert row.resolution is not None
    assert row.resolution.rewrite is None
    assert row.label is not None
    assert (row.label.labeller, row.label.label, row.label.rewrite) == ("ben", LabelValue.YES, None)
    assert [(item.question_id, item.detail) for item in await SqlReviewQueue(lived_in).top(9)] == [(row.question.id, "")]
    async with lived_in.read() as connection:
        assert list(await connection.scalars(sa.select(label_repeats.c.question_id))) == [row.question.id]
        assert list(await connection.scalars(sa.select(adjudications.c.question_id))) == [row.question.id]
    assert [m.mentions for m in await SqlInbox(lived_in).recent(GROUP, 10)] == [("u5",), ()]
    assert (await SqlOutbox(lived_in).counts())[ReplyState.EXPIRED] == 2
    disk = bytes_on_disk(path)
    assert b"zebrafish" not in disk
    assert b"u-gone" not in disk


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("question", "rewrite"),
    [
        ("那个模型支持量化吗？", "Zebrafish的模型支持量化吗？"),
        ("精度怎么样？", "zebrafish 在移动端的精度怎么样？"),
        ("does it run on TX2?", "does zebrafish by that author run on TX2?"),
        ("多少钱？", "那个 斑马扫描仪的价格是多少钱？"),
    ],
)
async def test_a_rewrite_that_says_more_than_the_words_it_took_is_erased_with_their_member(database: Database, path: Path, question: str, rewrite: str) -> None:
    inbox, log = SqlInbox(database), SqlQuestionLog(database)
    said, stays, asked = message(1, "有人用过 Zebrafish 吗？斑马扫描仪也行", sender="u-gone"), message(2, "mmpose 好用", sender="u3"), message(3, question, sender="u2")
    await inbox.add([said, stays, asked])
    await log.record(*ask(asked, context=(said, stays)))
    await log.judged(asked.key, verdict(0.9))
    await log.resolved(asked.key, resolution(rewrite))
    await SqlLabels(database).add(asked.key, "anna", LabelValue.YES, rewrite)
    await SqlLabels(database).add(asked.key, "ben", LabelValue.YES, "mmpose 的那个怎么样？")
    await SqlOutbox(database).enqueue(OutgoingReply(GROUP, rewrite, f"reply:{asked.key}", reply_to="m3", mention="u2"))
    await SqlMembers(database).forget("feishu", "u-gone")
    logged = await log.get(asked.key)
    assert logged is not None
    assert logged.resolution is not None
    assert logged.resolution.rewrite is None
    assert [one.rewrite for one in await SqlLabels(database).of_question(asked.key)] == [None, "mmpose 的那个怎么样？"]
    disk = bytes_on_disk(path).lower()
    assert b"zebrafish" not in disk
    assert "斑马扫描仪".encode() not in disk


async def test_who_opts_out_is_erased_and_not_stored_until_opting_in(lived_in: Database, path: Path) -> None:
    members, inbox = SqlMembers(lived_in), SqlInbox(lived_in)
    assert await members.opt_out("feishu", "u-gone") == 2
    assert await members.opt_out("feishu", "u-gone") == 0
    assert await members.opted_out() == {("feishu", "u-gone")}
    fresh = [message(10, "quokka", sender="u-gone"), message(11, sender="u2")]
    assert await inbox.add(fresh) == fresh[1:]
    assert await inbox.add([message(12, "quokka", sender="u-gone")]) == []
    disk = bytes_on_disk(path)
    assert b"zebrafish" not in disk
    assert b"quokka" not in disk
    await members.opt_in("feishu", "u-gone")
    assert await members.opted_out() == frozenset()
    assert await inbox.add(fresh) == fresh[:1]


async def test_what_is_forgotten_does_not_come_back_when_its_platform_pushes_it_again(lived_in: Database, clock: StillClock) -> None:
    members, inbox = SqlMembers(lived_in), SqlInbox(lived_in)
    await members.forget("feishu", "u-gone")
    again = [message(1, "大家用 zebrafish 吧", sender="u-gone"), message(5, "大家好", sender="u-gone")]
    assert await inbox.add(again) == again[1:]
    assert await inbox.count() == 3
    clock.forward(days=3)
    assert await members.forget("feishu", "u-gone") == 1
    async with lived_in.read() as connection:
        assert set(await connection.scalars(sa.select(messages.c.message_id))) == {"m1", "m2", "m3", "m4"}, "of what is too old to come again no mark is left"


@pytest.mark.parametrize("by_age", [True, False])
async def test_a_reply_may_be_made_of_a_line_that_age_has_erased_but_not_of_one_that_its_member_has(database: Database, clock: StillClock, by_age: bool) -> None:
    """Groups that say little ask about what was said days ago, and the retention may run while the answer is being written."""
    inbox, members = SqlInbox(database), SqlMembers(database)
    line, asked = message(1, "大家用 zebrafish 吧", sender="u-gone"), message(2, "怎么把它部署到 TX2？", sender="u2")
    await inbox.add([line])
    clock.forward(days=7)
    await inbox.add([asked])
    await SqlQuestionLog(database).record(*ask(asked, context=(line,)))
    clock.forward(seconds=5)
    assert await (members.retain(7) if by_age else members.forget("feishu", "u-gone")) == 1
    made_of = OutgoingReply(GROUP, "这样部署", f"reply:{asked.key}", reply_to="m2", mention="u2", made_of=("m2", "m1"))
    assert await SqlOutbox(database).enqueue(made_of) is by_age


async def test_the_same_id_on_another_platform_is_another_member(lived_in: Database) -> None:
    assert await SqlMembers(lived_in).opt_out("wechat", "u-gone") == 0
    assert len(await SqlInbox(lived_in).recent(GROUP, 10)) == 4


async def test_retention_erases_what_is_older(lived_in: Database, clock: StillClock, path: Path) -> None:
    clock.forward(days=29)
    await SqlInbox(lived_in).add([message(20, "新消息")])
    await SqlQuestionLog(lived_in).record(*ask(message(20, "新消息")))
    members = SqlMembers(lived_in)
    assert await members.retain(30) == 0
    clock.forward(days=2)
    assert await members.retain(30) == 4
    assert await SqlInbox(lived_in).recent(GROUP, 10) == [message(20, "新消息")]
    assert [row.question.text async for row in SqlQuestionLog(lived_in).export_rows()] == ["新消息"]
    assert b"zebrafish" not in bytes_on_disk(path)


@pytest.mark.sqlite
async def test_what_a_younger_question_shows_of_an_old_message_grows_old_with_it(database: Database, clock: StillClock, path: Path) -> None:
    """Its member may leave later: nothing would find the line then."""
    inbox, log, members = SqlInbox(database), SqlQuestionLog(database), SqlMembers(database)
    old, near, asked = message(1, "大家用 zebrafish 吧", sender="u-gone"), message(2, "好的", sender="u3"), message(3, "怎么把它部署到 TX2？", sender="u2", reply_to="m1")
    await inbox.add([old])
    clock.forward(days=29)
    await inbox.add([near, asked])
    await log.record(*ask(asked, context=(old, near)))
    await log.judged(asked.key, verdict(0.9))
    await log.resolved(asked.key, resolution("怎么把 zebrafish 部署到 TX2？"))
    clock.forward(days=1, hours=-1)
    assert await members.retain(30) == 0
    clock.forward(days=1)
    assert await members.retain(30) == 1
    await members.opt_out("feishu", "u-gone")
    logged = await log.get(asked.key)
    assert logged is not None
    assert [line.text for line in logged.question.context] == ["好的"]
    assert logged.resolution is not None
    assert logged.resolution.rewrite is None
    assert b"zebrafish" not in bytes_on_disk(path)


@pytest.mark.sqlite
async def test_a_question_that_grows_old_after_its_messages_leaves_the_file_too(database: Database, clock: StillClock, path: Path) -> None:
    """A bot that was busy, or down, records a question later than its messages came; a group that falls silent then has nothing else to erase."""
    asked = message(1, "zebrafish 怎么装？")
    await SqlInbox(database).add([asked])
    clock.forward(minutes=20)
    await SqlQuestionLog(database).record(*ask(asked))
    await SqlOutbox(database).enqueue(OutgoingReply(GROUP, "zebrafish 这样装", f"reply:{asked.key}", reply_to="m1"))
    members = SqlMembers(database)
    clock.forward(days=30, minutes=-10)
    assert await members.retain(30) == 1
    clock.forward(days=1)
    assert await members.retain(30) == 0
    assert b"zebrafish" not in bytes_on_disk(path)


async def test_retention_keeps_that_a_group_was_told(database: Database, clock: StillClock) -> None:
    outbox = SqlOutbox(database)
    for key in ("notice:feishu:g1", "reply:feishu:g1:m1", "noticeable"):
        await outbox.enqueue(OutgoingReply(GROUP, "本群已启用豆解", key))
    clock.forward(days=31)
    await SqlMembers(database).retain(30)
    assert [key for key in ("notice:feishu:g1", "reply:feishu:g1:m1", "noticeable") if await outbox.get(key) is not None] == ["notice:feishu:g1"]


async def test_forgetting_many_messages_over_several_pages(database: Database, path: Path) -> None:
    inbox, log = SqlInbox(database), SqlQuestionLog(database)
    said = [message(number, f"quokka{number}", sender="u-gone") for number in range(0, 900, 2)]
    asked = [message(number, sender="u2") for number in range(1, 900, 2)]
    await inbox.add([*said, *asked])
    await log.record_many([ask(question, context=(line,)) for line, question in zip(said, asked, strict=True)])
    assert await SqlMembers(database).forget("feishu", "u-gone") == 450
    rows = [row async for row in log.export_rows()]
    assert len(rows) == 450
    assert all(row.question.context == () for row in rows)
    assert b"quokka" not in bytes_on_disk(path)


@pytest.fixture
async def quoting(database: Database) -> Database:
    """u-gone said two things; u2 quotes the first as text and asks, u3 quotes the second and remarks, u4 quotes u5."""
    inbox, log = SqlInbox(database), SqlQuestionLog(database)
    first, second = message(1, "大家用 zebrafish 吧", sender="u-gone"), message(2, "我用的是 quokka", sender="u-gone")
    asks = message(3, "「名字u-gone：大家用 zebrafish 吧」\n- - - - -\n这个怎么装？", sender="u2")
    more = message(4, "在 TX2 上", sender="u2")
    remarks = message(5, "「名字u-gone：我用的是 quokka」\n- - - - -\n我也是", sender="u3")
    other = message(6, "「名字u5：今天吃什么」\n- - - - -\n面", sender="u4")
    later = message(7, "怎么升级？", sender="u5")
    await inbox.add([first, second, asks, more, remarks, other, later])
    await log.record(*ask(asks, more, context=(first,)))
    await log.record(*ask(later, context=(asks, remarks, other)))
    await SqlOutbox(database).enqueue(OutgoingReply(GROUP, "zebrafish 这样装", f"reply:{asks.key}", reply_to="m3", mention="u2"))
    return database


async def texts(database: Database) -> list[str]:
    async with database.read() as connection:
        return list(await connection.scalars(sa.select(messages.c.text).order_by(messages.c.message_id)))


@pytest.mark.sqlite
async def test_what_others_quoted_of_a_member_is_forgotten_too(quoting: Database, path: Path) -> None:
    await SqlMembers(quoting).forget("feishu", "u-gone")
    on_disk = bytes_on_disk(path)
    assert b"zebrafish" not in on_disk
    assert b"quokka" not in on_disk
    assert [text for text in await texts(quoting) if text] == ["这个怎么装？", "在 TX2 上", "我也是", "「名字u5：今天吃什么」\n- - - - -\n面", "怎么升级？"]
    (row,) = [row async for row in SqlQuestionLog(quoting).export_rows()]
    assert [line.text for line in row.question.context] == ["「名字u5：今天吃什么」\n- - - - -\n面"]


@pytest.mark.parametrize("shown", ["我用的是 quokka", "我用的是…"])
async def test_a_recalled_message_is_taken_out_of_quotations_of_it_alone(quoting: Database, shown: str) -> None:
    inbox = SqlInbox(quoting)
    await inbox.add([message(8, f"「名字u-gone：{shown}」\n- - - - -\n同问", sender="u3")])
    assert await inbox.recall(Recall("feishu", "g1", "m2", START))
    left = await texts(quoting)
    assert [text for text in left if "quokka" in text or "我用的是" in text] == []
    assert left[2] == "「名字u-gone：大家用 zebrafish 吧」\n- - - - -\n这个怎么装？", "another message of his"
    assert left[4] == "我也是"
    assert left[7] == "同问"
