from __future__ import annotations

from datetime import timedelta

import pytest

from core.messages import ConversationKey
from core.ports import OutgoingReply
from storage.engine import Database
from storage.outbox import QueuedReply, ReplyState, SqlOutbox
from tests.storage.samples import START, StillClock


@pytest.fixture
def outbox(database: Database) -> SqlOutbox:
    return SqlOutbox(database)


def reply(key: str, platform: str = "feishu") -> OutgoingReply:
    return OutgoingReply(ConversationKey(platform, "g1"), "答案", key, reply_to="m1", mention="u1")


async def test_a_key_is_queued_once_and_sent_once(outbox: SqlOutbox) -> None:
    assert await outbox.enqueue(reply("k1"))
    assert not await outbox.enqueue(reply("k1"))
    assert await outbox.claim("wechat") == []
    assert await outbox.claim("feishu") == [QueuedReply(reply("k1"), ReplyState.PENDING, 1, START)]
    assert await outbox.claim("feishu") == []
    await outbox.sent("k1", "om_1")
    stored = await outbox.get("k1")
    assert stored is not None
    assert (stored.state, stored.platform_message_id, stored.sent_at) == (ReplyState.SENT, "om_1", START)
    assert not await outbox.enqueue(reply("k1"))


async def test_a_claim_that_was_not_marked_runs_out(outbox: SqlOutbox, clock: StillClock) -> None:
    await outbox.enqueue(reply("k1"))
    await outbox.claim("feishu", lease=timedelta(seconds=60))
    clock.forward(seconds=59)
    assert await outbox.claim("feishu") == []
    clock.forward(seconds=1)
    assert [queued.attempts for queued in await outbox.claim("feishu")] == [2]


async def test_retry_waits_and_failed_ends_it(outbox: SqlOutbox, clock: StillClock) -> None:
    await outbox.enqueue(reply("k1"))
    await outbox.claim("feishu")
    await outbox.retry("k1", "429", timedelta(seconds=5))
    assert await outbox.next_due("feishu") == START + timedelta(seconds=5)
    clock.forward(seconds=5)
    assert [queued.error for queued in await outbox.claim("feishu")] == ["429"]
    await outbox.failed("k1", "no such group")
    assert await outbox.next_due("feishu") is None
    assert (await outbox.counts())[ReplyState.FAILED] == 1


async def test_what_waited_too_long_expires(outbox: SqlOutbox, clock: StillClock) -> None:
    await outbox.enqueue(reply("old"))
    clock.forward(minutes=10)
    await outbox.enqueue(reply("new"))
    await outbox.enqueue(reply("elsewhere", "wechat"))
    assert await outbox.expire("feishu", timedelta(minutes=5), "ol") == 0
    assert await outbox.expire("wechat", timedelta(minutes=5)) == 0
    assert await outbox.expire("feishu", timedelta(minutes=5), "notice:") == 1
    assert [queued.reply.idempotency_key for queued in await outbox.claim("feishu")] == ["new"]


async def test_oldest_first_and_no_more_than_asked_for(outbox: SqlOutbox) -> None:
    for number in range(5):
        await outbox.enqueue(reply(f"k{number}"))
    assert [queued.reply.idempotency_key for queued in await outbox.claim("feishu", limit=3)] == ["k0", "k1", "k2"]
    assert [queued.reply.idempotency_key for queued in await outbox.claim("feishu", limit=3)] == ["k3", "k4"]


async def test_one_group_alone_may_be_claimed(outbox: SqlOutbox) -> None:
    for number, group in enumerate(["g1", "g2", "g1"]):
        await outbox.enqueue(OutgoingReply(ConversationKey("wechat", group), "答案", f"k{number}"))
    assert [queued.reply.idempotency_key for queued in await outbox.claim("wechat", chat_id="g1")] == ["k0", "k2"]
    assert await outbox.claim("wechat", chat_id="g3") == []
    assert await outbox.next_due("wechat", ["g1", "g2"]) is None
    assert await outbox.next_due("wechat", ["g1"]) == START
    assert await outbox.claim("wechat", without=["g2"]) == []
    assert [queued.reply.idempotency_key for queued in await outbox.claim("wechat", without=["g1"])] == ["k1"]
