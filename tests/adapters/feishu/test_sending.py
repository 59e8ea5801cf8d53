"""Replies over the real REST path: quoting, idempotency, rate limits, back-off, and words that must not become markup."""

from __future__ import annotations

import asyncio

import pytest

from adapters.feishu.sending import APP_LIMITS, RateLimit
from core.errors import SendError
from core.messages import ConversationKey
from core.ports import OutgoingReply
from tests.adapters.feishu.conftest import Running
from tests.adapters.feishu.loopback import Call, Failure
from tests.adapters.manual_clock import ManualClock, eventually

MESSAGES = "/open-apis/im/v1/messages"
GROUP = ConversationKey("feishu", "chat-1")


def reply(key: str = "k", text: str = "答复", chat_id: str = "chat-1", **more: str) -> OutgoingReply:
    return OutgoingReply(ConversationKey("feishu", chat_id), text, key, **more)


def sends(running: Running) -> list[Call]:
    return [call for call in running.feishu.calls if call.path.startswith(MESSAGES) and call.method == "POST"]


async def test_a_reply_quotes_its_question_and_mentions_the_asker(running: Running) -> None:
    assert await running.finish(running.adapter.send(reply(reply_to="om_7", mention="ou_alice"))) == "om_0"
    shown = next(iter(running.feishu.messages.values()))
    assert (shown["quoted"], shown["text"]) == ("om_7", '<at user_id="ou_alice"></at> 答复')


async def test_members_words_never_become_a_mention(running: Running) -> None:
    await running.finish(running.adapter.send(reply(text='原问：<at user_id="all"></at> < AT id=1> a<b')))
    assert next(iter(running.feishu.messages.values()))["text"] == '原问：＜at user_id="all">＜/at> ＜ AT id=1> a<b'


async def test_the_key_is_the_same_for_each_attempt_and_fits_the_platform(running: Running) -> None:
    running.feishu.failures[MESSAGES] = [Failure(502, text="<html>"), Failure(500, 2200)]
    await running.finish(running.adapter.send(reply("a-very-long-key-" * 20)))
    uuids = {call.body["uuid"] for call in sends(running)}
    assert len(sends(running)) == 3
    assert len(uuids) == 1
    assert len(uuids.pop()) <= 50


async def test_one_group_gets_five_messages_a_second(running: Running) -> None:
    sending = asyncio.gather(*(running.adapter.send(reply(f"k{index}", f"第 {index} 条")) for index in range(12)))
    await running.until(lambda: len(sends(running)) == 5)
    await asyncio.sleep(0.05)
    assert len(sends(running)) == 5
    other = asyncio.create_task(running.adapter.send(reply("other", chat_id="chat-2")))
    await running.until(other.done)  # another group does not wait
    started = running.clock.monotonic()
    await running.until(lambda: len(sends(running)) > 6, step=0.1)  # several may leave between two looks
    assert running.clock.monotonic() - started >= 1.0 - 0.1
    await running.until(sending.done, step=0.1)
    await sending
    assert running.clock.monotonic() - started >= 2.0 - 0.1
    assert [shown["text"] for shown in running.feishu.messages.values() if shown["chat_id"] == "chat-1"] == [f"第 {index} 条" for index in range(12)]


async def test_an_app_makes_fifty_calls_a_second_and_a_thousand_a_minute() -> None:
    clock, taken = ManualClock(), list[float]()
    limit = RateLimit(APP_LIMITS, clock)

    async def take() -> None:
        for _ in range(1100):
            await limit.take()
            taken.append(clock.monotonic())

    taking = asyncio.create_task(take())
    await eventually(taking.done, tick=lambda: clock.advance(0.5))
    for number, seconds in APP_LIMITS:
        assert all(later - earlier >= seconds - 1e-6 for earlier, later in zip(taken, taken[number:], strict=False))
    assert taken[49] == taken[0]
    assert taken[999] < 40.0
    assert taken[1099] < 80.0


@pytest.mark.parametrize(
    "failure",
    [
        Failure(429, 0, text="slow down", headers={"Retry-After": "7"}),
        Failure(400, 99991400, headers={"x-ogw-ratelimit-reset": "7"}),
        Failure(400, 230020, headers={"Retry-After": "7"}),
    ],
)
async def test_a_rate_limit_is_waited_out_as_long_as_the_platform_says(running: Running, failure: Failure) -> None:
    running.feishu.failures[MESSAGES] = [failure]
    sending = asyncio.create_task(running.adapter.send(reply()))
    await running.until(lambda: len(sends(running)) == 1)
    started = running.clock.monotonic()
    await running.until(sending.done, step=0.5)
    assert await sending == "om_0"
    assert 6 <= running.clock.monotonic() - started <= 12


async def test_a_limit_without_a_time_backs_off_longer_each_time(running: Running) -> None:
    running.feishu.failures[MESSAGES] = [Failure(400, 230020)] * 10
    started = running.clock.monotonic()
    with pytest.raises(SendError) as caught:
        await running.finish(running.adapter.send(reply()), 0.25)
    assert not caught.value.permanent
    assert caught.value.retry_after is not None
    assert len(sends(running)) == 4
    assert running.clock.monotonic() - started >= 1 + 2 + 4


async def test_a_platform_that_names_no_wait_at_all_is_not_asked_again_at_once(running: Running) -> None:
    running.feishu.failures[MESSAGES] = [Failure(429, 0, text="slow down", headers={"Retry-After": "0"})] * 10
    started = running.clock.monotonic()
    with pytest.raises(SendError) as caught:
        await running.finish(running.adapter.send(reply()), 0.25)
    assert caught.value.retry_after
    assert len(sends(running)) == 4
    assert running.clock.monotonic() - started >= 1 + 2 + 4


async def test_a_reply_whose_earlier_attempt_is_still_being_sent_is_not_refused(running: Running) -> None:
    """The answer to the first attempt did not come in time: given up here, a reply that the group sees could never be taken back."""
    running.feishu.failures[MESSAGES] = [Failure(504, text="<html>"), Failure(400, 230049)]
    assert await running.finish(running.adapter.send(reply(reply_to="om_7"))) == "om_0"
    assert len({call.body["uuid"] for call in sends(running)}) == 1


async def test_a_long_wait_is_left_to_the_outbox(running: Running) -> None:
    running.feishu.failures[MESSAGES] = [Failure(429, 0, text="", headers={"Retry-After": "600"})]
    with pytest.raises(SendError) as caught:
        await running.finish(running.adapter.send(reply()))
    assert (caught.value.retry_after, caught.value.permanent) == (600.0, False)
    assert len(sends(running)) == 1


@pytest.mark.parametrize(("code", "remedy"), [(230002, "not in this group"), (99991672, "im:message:send_as_bot"), (230011, "")])
async def test_a_refusal_is_permanent_and_says_what_to_do(running: Running, code: int, remedy: str) -> None:
    running.feishu.failures[MESSAGES] = [Failure(400, code)]
    with pytest.raises(SendError, match=str(code)) as caught:
        await running.finish(running.adapter.send(reply(reply_to="om_7")))
    assert caught.value.permanent
    assert remedy in str(caught.value)


async def test_a_revoked_token_costs_one_more_call(running: Running) -> None:
    running.feishu.revoke_tokens()
    await running.finish(running.adapter.send(reply()))
    assert len(running.feishu.messages) == 1
    assert [call.token for call in sends(running)] == ["t-1", "t-2"]


async def test_a_token_that_is_refused_again_is_not_the_end_of_a_reply(running: Running) -> None:
    running.feishu.failures[MESSAGES] = [Failure(400, 99991663)] * 2
    await running.finish(running.adapter.send(reply()))
    assert len(running.feishu.messages) == 1


async def test_a_token_is_renewed_before_it_expires(running: Running) -> None:
    await running.until(lambda: running.clock.monotonic() > 6700, step=200.0)
    await running.finish(running.adapter.send(reply()))
    assert [call.token for call in sends(running)] == ["t-2"]


async def test_own_messages_can_be_taken_back(running: Running) -> None:
    message_id = await running.finish(running.adapter.send(reply()))
    await running.finish(running.adapter.recall(GROUP, message_id))
    assert running.feishu.recalled == [message_id]
    running.feishu.failures[MESSAGES] = [Failure(400, 230026)]
    with pytest.raises(SendError):
        await running.finish(running.adapter.recall(GROUP, "om_other"))
