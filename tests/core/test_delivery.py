from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.delivery import LEASE, NOTICE_PAUSE, Outcome
from core.errors import SendError
from core.messages import ConversationKey, Recall
from core.ports import OutgoingReply
from storage.outbox import ReplyState
from tests.adapters.manual_clock import ManualClock, eventually
from tests.core.house import GROUP, House, RecordingAdapter, open_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "d.db") as house:
        yield house


def reply(key: str, chat: str = "g1", text: str = "答案") -> OutgoingReply:
    return OutgoingReply(ConversationKey("feishu", chat), text, key)


async def state(house: House, key: str) -> ReplyState:
    queued = await house.outbox.get(key)
    assert queued is not None
    return queued.state


async def settled(house: House, *outcomes: Outcome, seconds: float = 0.0) -> None:
    """Wait until exactly these outcomes were counted; ``seconds`` pass between looks."""
    await eventually(lambda: sorted(house.delivery.counts["feishu"].elements()) == sorted(outcomes), tick=lambda: house.clock.advance(seconds))


class DyingAdapter(RecordingAdapter):
    """The group sees the reply, then the program dies before it can note it."""

    async def send(self, reply: OutgoingReply) -> str:
        await super().send(reply)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def die_while_sending(path: Path, clock: ManualClock, *, idempotent: bool) -> int:
    """One run of the program that dies while it sends what is due. Returns how often the group saw it."""
    adapter = DyingAdapter(idempotent=idempotent)
    async with open_house(path, clock, adapter=adapter) as house:
        await house.delivery.start()
        await eventually(lambda: adapter.sent or house.delivery.counts["feishu"])
        await house.delivery.stop(timeout=0)
    await clock.advance(LEASE.total_seconds() + 1)
    return len(adapter.sent)


async def test_what_is_queued_is_sent_at_once_in_order_and_once(house: House) -> None:
    await house.outbox.enqueue(reply("from-an-earlier-run"))
    await house.delivery.start()
    await eventually(lambda: house.adapter.sent)
    for number in range(50):
        assert await house.delivery.enqueue(reply(f"k{number}"))
        assert not await house.delivery.enqueue(reply(f"k{number}"))
    await eventually(lambda: len(house.adapter.sent) == 51)
    assert [sent.idempotency_key for sent in house.adapter.sent[1:]] == [f"k{number}" for number in range(50)]
    await settled(house, *[Outcome.SENT] * 51)
    queued = await house.outbox.get("k49")
    assert queued is not None
    assert (queued.state, queued.platform_message_id, queued.attempts) == (ReplyState.SENT, "om_51", 1)


async def test_replies_of_another_platform_are_left_alone(house: House) -> None:
    await house.delivery.start()
    await house.delivery.enqueue(OutgoingReply(ConversationKey("wechat", "g1"), "答案", "w1"))
    await house.delivery.enqueue(reply("k1"))
    await settled(house, Outcome.SENT)
    assert await state(house, "w1") is ReplyState.PENDING


async def test_retry_after_is_honoured_to_the_second(house: House) -> None:
    house.adapter.failures = [SendError("feishu", "HTTP 429", retry_after=7.0)]
    await house.delivery.start()
    await house.delivery.enqueue(reply("k1"))
    await settled(house, Outcome.RETRIED)
    await house.clock.advance(6.9)
    await asyncio.sleep(0.02)
    assert house.adapter.sent == []
    await eventually(lambda: house.adapter.sent, tick=lambda: house.clock.advance(0.1))
    queued = await house.outbox.get("k1")
    assert queued is not None
    assert 7.0 <= (house.clock.now() - queued.created_at).total_seconds() < 9.0


async def test_without_retry_after_it_backs_off_until_it_is_too_old(house: House) -> None:
    house.adapter.failures = [SendError("feishu", "HTTP 502")] * 50
    await house.delivery.start()
    await house.delivery.enqueue(reply("k1"))
    await eventually(lambda: house.delivery.counts["feishu"][Outcome.EXPIRED], tick=lambda: house.clock.advance(5))
    attempts = 50 - len(house.adapter.failures)
    assert 5 <= attempts <= 9
    assert await state(house, "k1") is ReplyState.FAILED
    assert house.adapter.sent == []


async def test_a_permanent_refusal_ends_it_and_the_next_goes_on(house: House) -> None:
    house.adapter.failures = [SendError("feishu", "the bot is not in this group", permanent=True)]
    await house.delivery.start()
    await house.delivery.enqueue(reply("k1"))
    await house.delivery.enqueue(reply("k2"))
    await settled(house, Outcome.REFUSED, Outcome.SENT)
    assert await state(house, "k1") is ReplyState.FAILED
    assert [sent.idempotency_key for sent in house.adapter.sent] == ["k2"]


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_notice_that_is_refused_is_posted_when_an_admin_has_cured_it(tmp_path: Path, idempotent: bool) -> None:
    """It is queued once in the life of a group, and the group is collected meanwhile."""
    adapter = RecordingAdapter(idempotent=idempotent)
    adapter.failures = [SendError("feishu", "a scope is missing", permanent=True)] * 3
    async with open_house(tmp_path / "d.db", adapter=adapter) as house:
        await house.delivery.start()
        await house.delivery.enqueue(reply("notice:feishu:g1"))
        for refusals in (1, 2, 3):
            await settled(house, *[Outcome.RETRIED] * refusals, seconds=1)
            await house.clock.advance(NOTICE_PAUSE.total_seconds())
        await settled(house, Outcome.SENT, *[Outcome.RETRIED] * 3, seconds=1)
        assert await state(house, "notice:feishu:g1") is ReplyState.SENT


async def test_a_reply_that_waited_too_long_is_not_sent_but_a_notice_is(house: House) -> None:
    await house.outbox.enqueue(reply("reply:q1"))
    await house.outbox.enqueue(reply("notice:feishu:g1"))
    await house.clock.advance(301)
    await house.delivery.start()
    await settled(house, Outcome.EXPIRED, Outcome.SENT)
    assert [sent.idempotency_key for sent in house.adapter.sent] == ["notice:feishu:g1"]


async def test_a_crash_between_send_and_mark_repeats_with_the_same_key_where_the_platform_knows_it(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_house(tmp_path / "d.db", clock) as house:
        await house.outbox.enqueue(reply("notice:1"))
    assert await die_while_sending(tmp_path / "d.db", clock, idempotent=True) == 1
    async with open_house(tmp_path / "d.db", clock) as house:
        await house.delivery.start()
        await settled(house, Outcome.SENT)
        assert [sent.idempotency_key for sent in house.adapter.sent] == ["notice:1"]


async def test_however_often_it_crashes_a_platform_without_keys_shows_it_twice_at_most(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_house(tmp_path / "d.db", clock) as house:
        await house.outbox.enqueue(reply("notice:1"))
    seen = [await die_while_sending(tmp_path / "d.db", clock, idempotent=False) for _ in range(3)]
    assert seen == [1, 1, 0]
    async with open_house(tmp_path / "d.db", clock) as house:
        assert await state(house, "notice:1") is ReplyState.FAILED


async def test_definite_refusals_do_not_count_as_crashes(tmp_path: Path) -> None:
    adapter = RecordingAdapter(idempotent=False)
    adapter.failures = [SendError("feishu", "busy", retry_after=1.0)] * 6
    async with open_house(tmp_path / "d.db", adapter=adapter) as house:
        await house.delivery.start()
        await house.delivery.enqueue(reply("k1"))
        await eventually(lambda: adapter.sent, tick=lambda: house.clock.advance(0.5))
        await settled(house, Outcome.SENT, *[Outcome.RETRIED] * 6)


async def test_after_a_long_time_without_a_connection_a_time_out_is_tried_again_soon(tmp_path: Path) -> None:
    adapter = RecordingAdapter(idempotent=False)
    adapter.failures = [*[SendError("feishu", "no connection", retry_after=1.0)] * 12, SendError("feishu", "no answer within 10 s")]
    async with open_house(tmp_path / "d.db", adapter=adapter) as house:
        await house.delivery.start()
        await house.delivery.enqueue(reply("k1"))
        await eventually(lambda: house.delivery.counts["feishu"][Outcome.RETRIED] == 13, tick=lambda: house.clock.advance(1))
        refused = house.clock.now()
        await eventually(lambda: adapter.sent, tick=lambda: house.clock.advance(1))
        assert house.clock.now() - refused < timedelta(seconds=30)


async def test_a_notice_that_waits_hours_for_a_connection_fills_no_log(tmp_path: Path) -> None:
    adapter = RecordingAdapter(idempotent=False)
    async with open_house(tmp_path / "d.db", adapter=adapter) as house:
        await house.delivery.enqueue(reply("notice:g1"))
        await house.clock.advance(6 * 3600)
        adapter.failures = [SendError("feishu", "no connection", retry_after=1.0)] * 100
        retried = house.clock.now()
        await house.delivery.start()
        await eventually(lambda: house.delivery.counts["feishu"][Outcome.RETRIED] == 5, tick=lambda: house.clock.advance(1))
        assert house.clock.now() - retried >= timedelta(minutes=15)
        adapter.failures = []
        await eventually(lambda: adapter.sent, tick=lambda: house.clock.advance(10))


async def test_two_time_outs_are_the_end_where_each_may_have_reached_the_group(tmp_path: Path) -> None:
    adapter = RecordingAdapter(idempotent=False)
    adapter.failures = [SendError("feishu", "busy", retry_after=1.0), SendError("feishu", "no answer within 30 s"), SendError("feishu", "no answer within 30 s")]
    async with open_house(tmp_path / "d.db", adapter=adapter) as house:
        await house.delivery.start()
        await house.delivery.enqueue(reply("k1"))
        await eventually(lambda: house.delivery.counts["feishu"][Outcome.UNCONFIRMED], tick=lambda: house.clock.advance(1))
        assert await state(house, "k1") is ReplyState.FAILED
    assert adapter.sent == []


async def test_a_defect_of_the_adapter_does_not_end_the_loop_nor_show_texts(house: House) -> None:
    house.adapter.failures = [RuntimeError("members said: quokka")]
    with capture_logs() as logs:
        await house.delivery.start()
        await house.delivery.enqueue(reply("k1", text="quokka"))
        await house.delivery.enqueue(reply("k2"))
        await eventually(lambda: len(house.adapter.sent) == 2, tick=lambda: house.clock.advance(1))
    assert [entry["error"] for entry in logs if entry["event"] == "send_failed"] == ["RuntimeError"]
    assert "quokka" not in str([entry for entry in logs if entry["log_level"] != "debug"])


async def test_a_slow_group_does_not_hold_up_another(tmp_path: Path) -> None:
    class SlowInOneGroup(RecordingAdapter):
        gate = asyncio.Event()

        async def send(self, reply: OutgoingReply) -> str:
            if reply.conversation == GROUP:
                await self.gate.wait()
            return await super().send(reply)

    adapter = SlowInOneGroup()
    async with open_house(tmp_path / "d.db", adapter=adapter) as house:
        for key, chat in (("a", "g1"), ("b", "g1"), ("c", "g2")):
            await house.outbox.enqueue(reply(key, chat))
        await house.delivery.start()
        await eventually(lambda: [sent.idempotency_key for sent in adapter.sent] == ["c"])
        for key, chat in (("d", "g1"), ("e", "g2"), ("f", "g3")):  # nor what is queued while it is being slow
            await house.delivery.enqueue(reply(key, chat))
        await eventually(lambda: sorted(sent.idempotency_key for sent in adapter.sent) == ["c", "e", "f"])
        adapter.gate.set()
        await eventually(lambda: [sent.idempotency_key for sent in adapter.sent][3:] == ["a", "b", "d"])
        await settled(house, *[Outcome.SENT] * 6)


async def test_what_is_withdrawn_or_erased_while_it_waits_behind_another_is_not_sent(tmp_path: Path) -> None:
    class Slow(RecordingAdapter):
        gate = asyncio.Event()

        async def send(self, reply: OutgoingReply) -> str:
            await self.gate.wait()
            return await super().send(reply)

    adapter = Slow()
    async with open_house(tmp_path / "d.db", adapter=adapter) as house:
        await house.say(1, "说错了的话")
        for key, quoted in (("notice:1", None), ("notice:2", "m1"), ("reply:q1", None), ("notice:3", None)):
            await house.outbox.enqueue(replace(reply(key), reply_to=quoted))
        await house.delivery.start()
        await eventually(lambda: any(task.get_name() == "delivery feishu g1" for task in asyncio.all_tasks()))
        await house.ingest.recall(Recall("feishu", "g1", "m1", house.clock.now()))
        await house.delivery.withdraw(GROUP)
        adapter.gate.set()
        await eventually(lambda: len(adapter.sent) == 2)
        assert [sent.idempotency_key for sent in adapter.sent] == ["notice:1", "notice:3"]
        assert await state(house, "reply:q1") is ReplyState.EXPIRED


async def test_a_database_that_fails_for_a_while_does_not_end_the_loop(house: House, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "d.db")
    other.execute("ALTER TABLE replies RENAME TO replies_away")
    other.commit()
    with capture_logs() as logs:
        await house.delivery.start()
        await eventually(lambda: [entry for entry in logs if entry["event"] == "outbox_unusable"])
    other.execute("ALTER TABLE replies_away RENAME TO replies")
    other.commit()
    other.close()
    await house.delivery.enqueue(reply("k1"))
    await eventually(lambda: house.adapter.sent, tick=lambda: house.clock.advance(1))


@pytest.fixture
async def fetching(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "d.db", adapter=RecordingAdapter(fetches=True)) as house:
        await house.delivery.start()
        yield house


async def fetched(house: House, chat: str | None = "g1") -> list[str]:
    async with house.ingest.fetch("feishu", chat) as replies:
        return [reply.idempotency_key for reply in replies]


async def test_a_platform_that_fetches_gets_what_waits_for_a_group_once_and_nothing_is_sent_to_it(fetching: House) -> None:
    for key, chat in (("a", "g1"), ("b", "g2"), ("c", "g1")):
        await fetching.delivery.enqueue(reply(key, chat))
    await fetching.clock.advance(120)
    assert await fetched(fetching) == ["a", "c"]
    assert await fetched(fetching) == []
    assert await fetched(fetching, None) == ["b"]
    assert fetching.adapter.sent == []
    assert fetching.delivery.counts["feishu"] == {Outcome.SENT: 3}
    assert await state(fetching, "a") is ReplyState.SENT


async def test_what_could_not_be_handed_out_waits_on_and_is_nobody_elses_meanwhile(fetching: House) -> None:
    await fetching.delivery.enqueue(reply("a"))
    for _ in range(3):
        with suppress(ConnectionError):
            async with fetching.delivery.fetch("feishu", "g1") as replies:
                assert len(replies) == 1
                assert await fetched(fetching) == []
                raise ConnectionError
    assert await fetched(fetching) == ["a"]


async def test_what_nobody_fetches_is_given_up_in_time_but_a_notice_is_kept(fetching: House) -> None:
    with capture_logs() as logs:
        await fetching.delivery.enqueue(reply("reply:q1"))
        await fetching.delivery.enqueue(reply("notice:feishu:g1"))
        await eventually(lambda: [entry for entry in logs if entry["event"] == "replies_not_fetched"], tick=lambda: fetching.clock.advance(10))
    assert await state(fetching, "reply:q1") is ReplyState.EXPIRED
    assert await fetched(fetching) == ["notice:feishu:g1"]


async def test_a_reply_is_too_old_to_be_fetched_to_the_second(fetching: House) -> None:
    await fetching.delivery.stop()
    await fetching.delivery.enqueue(reply("a"))
    await fetching.clock.advance(301)
    assert await fetched(fetching) == []
    assert await state(fetching, "a") is ReplyState.FAILED


async def test_the_age_of_a_reply_counts_from_its_question(fetching: House) -> None:
    await fetching.delivery.stop()
    asked = fetching.clock.now() - timedelta(seconds=250)
    await fetching.delivery.enqueue(replace(reply("a"), asked_at=asked))
    await fetching.delivery.enqueue(replace(reply("b"), asked_at=fetching.clock.now() + timedelta(days=1)))  # a platform whose clock is wrong
    await fetching.clock.advance(51)
    assert await fetched(fetching) == ["b"]
    assert await state(fetching, "a") is ReplyState.FAILED
    await fetching.clock.advance(250)
    assert await fetched(fetching) == []


async def test_what_waits_to_be_fetched_survives_crashes_and_is_repeated_once_at_most(tmp_path: Path) -> None:
    clock = ManualClock()
    seen = []
    for run in range(4):
        async with open_house(tmp_path / "d.db", clock, adapter=RecordingAdapter(fetches=True)) as house:
            if run == 0:
                await house.delivery.enqueue(reply("notice:1"))
                continue  # dies before anybody asked
            handed_out = house.delivery.fetch("feishu", "g1")
            seen.append(len(await handed_out.__aenter__()))  # dies before the platform's answer is written, or just after it
            await clock.advance(LEASE.total_seconds() + 1)
    assert seen == [1, 1, 0]


async def test_stop_leaves_no_task_and_may_be_called_again(house: House) -> None:
    await house.delivery.start()
    await house.delivery.stop()
    await house.delivery.stop()
    await house.delivery.enqueue(reply("k1"))
    assert await state(house, "k1") is ReplyState.PENDING
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("delivery")]
