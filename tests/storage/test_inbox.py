from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from core.messages import ConversationKey, MessageKind, Recall, Utterance
from core.ports import OutgoingReply, Unmerged
from storage.engine import Database, open_database
from storage.inbox import SqlInbox
from storage.outbox import SqlOutbox
from storage.questions import SqlQuestionLog
from tests.storage.samples import START, ask, bytes_on_disk, message, resolution, verdict

GROUP = ConversationKey("feishu", "g1")


@pytest.fixture
def inbox(database: Database) -> SqlInbox:
    return SqlInbox(database)


@pytest.fixture
def log(database: Database) -> SqlQuestionLog:
    return SqlQuestionLog(database)


async def test_new_messages_come_back_in_order_and_duplicates_do_not(inbox: SqlInbox) -> None:
    first, second, third = message(1), message(2), message(3)
    assert await inbox.add([second, first, second]) == [second, first]
    assert await inbox.add([first, third]) == [third]
    assert await inbox.recent(GROUP, 10) == [second, first, third]
    assert await inbox.count() == 3


async def test_every_field_survives(inbox: SqlInbox) -> None:
    full = replace(message(1, reply_to="m0", mentions=("u2", "u3")), kind=MessageKind.IMAGE, thread_id="t1")
    await inbox.add([full])
    assert await inbox.recent(GROUP, 1) == [full]


async def test_the_same_ids_on_two_platforms_are_two_messages(inbox: SqlInbox) -> None:
    both = [message(1), message(1, platform="wechat")]
    assert await inbox.add(both) == both
    assert set(await inbox.chats()) == {GROUP, ConversationKey("wechat", "g1")}


async def test_concurrent_callers_with_the_same_message_get_it_once(inbox: SqlInbox) -> None:
    answers = await asyncio.gather(*(inbox.add([message(1), message(number)]) for number in range(2, 30)))
    assert sum(message(1) in answer for answer in answers) == 1
    assert await inbox.count() == 29


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("a\ud800b", "a\N{REPLACEMENT CHARACTER}b"),
        ("\ud83d\ude00", "😀"),
        ("a\0b", "a\N{SYMBOL FOR NULL}b"),
        ("שלום 🧑‍🚀 \u202e", "שלום 🧑‍🚀 \u202e"),
        ("问" * 100_000, "问" * 100_000),
        ("'); DROP TABLE messages; --", "'); DROP TABLE messages; --"),
        ("", ""),
    ],
)
async def test_awkward_texts_survive_or_are_replaced_visibly(inbox: SqlInbox, text: str, stored: str) -> None:
    sent = replace(message(1), text=text, sender_name=text[:50], chat_name=text[:50], mentions=(text[:50],))
    (new,) = await inbox.add([sent])
    assert new.text == stored
    assert await inbox.recent(GROUP, 1) == [new]
    assert await inbox.add([sent]) == []


async def test_history_is_what_arrived_before(inbox: SqlInbox) -> None:
    late = [message(5), message(1), message(3), message(9, chat="g2")]
    await inbox.add(late)
    assert await inbox.history(message(3), 10) == [message(5), message(1)]
    assert await inbox.history(message(3), 1) == [message(1)]
    assert await inbox.history(message(77), 10) == []


async def test_one_message_is_found_however_old_unless_it_was_recalled(inbox: SqlInbox) -> None:
    await inbox.add([message(1), message(2), message(1, platform="wechat")])
    assert await inbox.find(GROUP, "m1") == message(1)
    await inbox.recall(Recall("feishu", "g1", "m1", START))
    assert await inbox.find(GROUP, "m1") is None
    assert await inbox.find(GROUP, "never-said") is None


async def test_copies_are_the_same_words_of_the_same_member_at_the_same_moment(inbox: SqlInbox) -> None:
    said = message(1)
    copy, other, later = (
        replace(said, message_id="copy"),
        replace(said, message_id="other", sender_id="u9"),
        replace(said, message_id="later", sent_at=said.sent_at + timedelta(minutes=1)),
    )
    await inbox.add([said, copy, other, later])
    assert await inbox.copies(said) == [copy]
    assert await inbox.copies(copy) == [said]
    await inbox.recall(Recall("feishu", "g1", "copy", START))
    assert await inbox.copies(said) == []


async def test_unmerged_is_what_no_utterance_holds_after_a_restart(url: str) -> None:
    first = await open_database(url)
    await SqlInbox(first).add([message(1), message(2), message(3)])
    await SqlQuestionLog(first).record(Utterance((message(1), message(3))), None)
    await first.close()
    second = await open_database(url)
    assert await SqlInbox(second).unmerged() == Unmerged((message(1), message(2), message(3)), frozenset({message(1).key, message(3).key}))
    await second.close()


async def test_the_name_of_a_group_follows_its_newest_message(inbox: SqlInbox) -> None:
    await inbox.add([message(1)])
    await inbox.add([replace(message(2), chat_name="新名字")])
    await inbox.add([replace(message(3), chat_name="")])
    assert await inbox.chats() == {GROUP: "新名字"}


@pytest.mark.sqlite
async def test_recall_erases_the_text_everywhere_even_from_the_file(inbox: SqlInbox, log: SqlQuestionLog, database: Database, path: Path) -> None:
    secret = message(1, "我们用 mmpose-secret 吧")
    other = message(2, "怎么把它部署到 TX2？", sender="u2")
    own = message(3, "secret-question 怎么办？")
    await inbox.add([secret, other, own])
    await log.record(Utterance((secret,)), None)
    await log.record(*ask(other, context=(secret,)))
    await log.record(*ask(own))
    key = other.key
    await log.judged(key, verdict(0.9))
    await log.resolved(key, resolution("怎么把 mmpose-secret 部署到 TX2？"))
    assert b"secret" in bytes_on_disk(path)

    assert await inbox.recall(Recall("feishu", "g1", "m1", START))
    assert await inbox.recall(Recall("feishu", "g1", "m3", START))

    logged = await log.get(key)
    assert logged is not None
    assert logged.question.context == ()
    assert logged.resolution is not None
    assert logged.resolution.rewrite is None
    assert await log.get(own.key) is None
    assert await inbox.recent(GROUP, 10) == [other]
    assert await log.unjudged() == []
    assert b"secret" not in bytes_on_disk(path)


async def test_recall_leaves_lines_and_rewrites_of_others_alone(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    mine, yours, question = message(1, "好"), message(2, "好，用 mmpose", sender="u2"), message(3, "怎么装？", sender="u3")
    await inbox.add([mine, yours, question])
    await log.record(*ask(question, context=(mine, yours)))
    await log.judged(question.key, verdict(0.9))
    await log.resolved(question.key, resolution("怎么装 mmpose？"))
    await inbox.recall(Recall("feishu", "g1", "m1", START))
    logged = await log.get(question.key)
    assert logged is not None
    assert [line.text for line in logged.question.context] == ["好，用 mmpose"]
    assert not logged.question.quotes_unseen
    assert logged.resolution is not None
    assert logged.resolution.rewrite == "怎么装 mmpose？"


@pytest.mark.parametrize("recalled_first", [False, True])
async def test_a_question_whose_quoted_message_is_recalled_quotes_what_nobody_can_see(inbox: SqlInbox, log: SqlQuestionLog, recalled_first: bool) -> None:
    quoted, beside, question = message(1, "用 mmpose"), message(2, "好", sender="u2"), message(3, "怎么装？", sender="u3", reply_to="m1")
    utterance, asked = ask(question, context=(quoted, beside))
    asked = replace(asked, context=(replace(asked.context[0], is_reply_target=True), asked.context[1]))
    await inbox.add([quoted, beside, question])
    if recalled_first:
        await inbox.recall(Recall("feishu", "g1", "m1", START))
    await log.record(utterance, asked)
    await inbox.recall(Recall("feishu", "g1", "m1", START))
    (kept,) = await log.unjudged()
    assert ([line.text for line in kept.context], kept.quotes_unseen) == (["好"], True)


async def test_recall_of_one_part_takes_the_context_line_of_the_whole_utterance(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    parts = (message(1, "我们用"), message(2, "mmpose"))
    question = message(3, "怎么装？", sender="u2")
    await inbox.add([*parts, question])
    await log.record(Utterance(parts), None)
    utterance, asked = ask(question, context=(replace(parts[0], text="我们用 mmpose"),))
    await log.record(utterance, asked)
    await inbox.recall(Recall("feishu", "g1", "m2", START))
    logged = await log.get(question.key)
    assert logged is not None
    assert logged.question.context == ()


async def test_recall_before_the_message_keeps_it_out(inbox: SqlInbox) -> None:
    assert not await inbox.recall(Recall("feishu", "g1", "m1", START))
    assert not await inbox.recall(Recall("feishu", "g1", "m1", START))
    assert await inbox.add([message(1)]) == []
    assert (await inbox.unmerged()).messages == ()
    assert await inbox.count() == 0


async def test_a_question_on_its_way_while_its_message_is_recalled_is_not_stored(inbox: SqlInbox, log: SqlQuestionLog) -> None:
    line, question, second = message(1), message(2), message(3)
    await inbox.add([line, question, second])
    await inbox.recall(Recall("feishu", "g1", "m1", START))
    await inbox.recall(Recall("feishu", "g1", "m2", START))
    await log.record(*ask(question, context=(line,)))
    await log.record(*ask(second, context=(line,)))
    assert [q.id for q in await log.unjudged()] == [second.key]
    assert (await log.unjudged())[0].context == ()
    await log.judged(question.key, verdict(0.9))
    await log.resolved(question.key, resolution("x"))


async def test_a_reply_that_waits_is_not_sent_after_the_recall(inbox: SqlInbox, database: Database) -> None:
    outbox = SqlOutbox(database)
    await inbox.add([message(1)])
    reply = OutgoingReply(GROUP, "怎么把 mmpose 部署？", "k1", reply_to="m1")
    await outbox.enqueue(reply)
    await inbox.recall(Recall("feishu", "g1", "m1", START))
    assert await outbox.claim("feishu") == []
    assert not await outbox.enqueue(reply)
