"""Names of chats and members over the real REST path."""

from __future__ import annotations

import structlog

from core.messages import ConversationKey
from tests.adapters.feishu.conftest import Running
from tests.adapters.feishu.loopback import Failure
from tests.adapters.feishu.payloads import text_event

CHATS, USERS = "/open-apis/im/v1/chats/", "/open-apis/contact/v3/users/"


async def test_names_are_looked_up_once_and_again_when_they_are_old(running: Running) -> None:
    for index in range(3):
        await running.feishu.push(f"f{index}", text_event(f"m{index}"))
    await running.until(lambda: len(running.sink.messages) == 3)
    assert {(message.chat_name, message.sender_name) for message in running.sink.messages} == {("一群", "爱丽丝")}
    assert (running.names_asked(CHATS), running.names_asked(USERS)) == (1, 1)
    running.feishu.members["alice"] = "改名了"
    await running.until(lambda: running.clock.monotonic() > 3700, step=120.0)
    await running.until(lambda: running.adapter.health().connected, step=1.0)
    await running.feishu.push("f9", text_event("m9"))
    await running.until(lambda: "m9" in running.sink.ids())
    await running.until(lambda: running.names_asked(USERS) == 2)
    await running.feishu.push("f10", text_event("m10"))
    await running.until(lambda: "m10" in running.sink.ids())
    named = {message.message_id: message.sender_name for message in running.sink.messages}
    assert named["m9"] == "爱丽丝", "an old name is used at once while the new one is fetched"
    assert named["m10"] in ("爱丽丝", "改名了")


async def test_a_missing_scope_costs_names_and_nothing_else(running: Running) -> None:
    running.feishu.failures[USERS] = [Failure(400, 99991672)] * 5
    with structlog.testing.capture_logs() as logged:
        for index in range(4):
            await running.feishu.push(f"f{index}", text_event(f"m{index}"))
        await running.feishu.push("f9", text_event("m9", sender_id="bob"))
        await running.until(lambda: len(running.sink.messages) == 5)
    assert {message.sender_name for message in running.sink.messages} == {""}
    assert {message.chat_name for message in running.sink.messages} == {"一群"}
    assert running.names_asked(USERS) == 2, "a refusal is remembered for each member"
    warnings = [entry for entry in logged if entry["event"] == "feishu.names_unavailable"]
    assert len(warnings) == 1
    assert "contact:user.base:readonly" in warnings[0]["remedy"]


async def test_a_slow_look_up_holds_a_message_for_a_second_at_most(running: Running) -> None:
    running.feishu.delays[USERS] = 0.5
    await running.feishu.push("f1", text_event("m1"))
    await running.until(lambda: running.names_asked(USERS) == 1)
    started = running.clock.monotonic()
    await running.clock.advance(1.0)
    await running.until(lambda: running.sink.ids() == ["m1"])
    assert running.clock.monotonic() - started == 1.0
    assert running.sink.messages[0].sender_name == ""
    await running.until(lambda: running.adapter._session is not None and not running.adapter._session.names._fetching)
    await running.feishu.push("f2", text_event("m2"))
    await running.until(lambda: len(running.sink.messages) == 2)
    assert running.sink.messages[1].sender_name == "爱丽丝", "the look-up went on for the next message"


async def test_slow_look_ups_do_not_change_the_order(running: Running) -> None:
    running.feishu.delays[f"{USERS}bob"] = 0.2
    for index in range(6):
        await running.feishu.push(f"f{index}", text_event(f"m{index}", sender_id="bob" if index % 2 == 0 else "alice"))
    await running.until(lambda: len(running.sink.messages) == 6)
    assert running.sink.ids() == [f"m{index}" for index in range(6)]


async def test_a_failing_look_up_is_tried_again_after_a_minute(running: Running) -> None:
    running.feishu.failures[USERS] = [Failure(502, text="<html>")]
    await running.feishu.push("f1", text_event("m1"))
    await running.until(lambda: len(running.sink.messages) == 1)
    await running.clock.advance(61)
    await running.feishu.push("f2", text_event("m2"))
    await running.until(lambda: running.names_asked(USERS) == 2)


async def test_a_mention_tells_a_name_that_no_look_up_gives(running: Running) -> None:
    mention = {"key": "@_user_1", "id": {"open_id": "carol"}, "name": "卡萝"}
    await running.feishu.push("f1", text_event("m1", "@_user_1 看看", mentions=[mention]))
    await running.feishu.push("f2", text_event("m2", sender_id="carol"))
    await running.until(lambda: len(running.sink.messages) == 2)
    assert running.sink.messages[1].sender_name == "卡萝"


async def test_members_of_a_group_that_is_not_collected_are_not_looked_up(running: Running) -> None:
    running.sink.not_collected.add("chat-2")
    mention = {"key": "@_user_1", "id": {"open_id": "carol"}, "name": "卡萝"}
    await running.feishu.push("f1", text_event("m1", "@_user_1 看看", "chat-2", mentions=[mention]))
    await running.feishu.push("f2", text_event("m2", sender_id="carol"))
    await running.until(lambda: len(running.sink.messages) == 2)
    named = {message.message_id: (message.chat_name, message.sender_name) for message in running.sink.messages}
    assert named == {"m1": ("二群", ""), "m2": ("一群", "")}
    assert [call.path for call in running.feishu.calls if call.path.startswith(USERS)] == [f"{USERS}carol"]


async def test_a_revoked_token_is_renewed_without_a_loss(running: Running) -> None:
    running.feishu.revoke_tokens()
    await running.feishu.push("f1", text_event("m1"))
    await running.until(lambda: running.sink.messages)
    assert running.sink.messages[0].sender_name == "爱丽丝"
    tokens = [call for call in running.feishu.calls if "tenant_access_token" in call.path]
    assert len(tokens) == 2, "one token for all who found theirs revoked"


async def test_owner_and_managers_of_a_group_are_told_kept_for_some_minutes_and_none_when_the_platform_does_not_tell(running: Running) -> None:
    group, other = ConversationKey("feishu", "chat-1"), ConversationKey("feishu", "chat-2")
    assert await running.finish(running.adapter.chat_admins(group)) == {"olive", "max", "mia"}
    assert await running.finish(running.adapter.chat_admins(other)) == frozenset()
    running.feishu.owners["chat-1"], running.feishu.managers["chat-1"] = "bob", []
    assert "olive" in await running.adapter.chat_admins(group)
    await running.until(lambda: running.clock.monotonic() > 400, step=100.0)
    running.feishu.failures[CHATS] = [Failure(400, 99991672)]
    assert "olive" in await running.finish(running.adapter.chat_admins(group)), "the last known, for a minute"
    await running.until(lambda: running.clock.monotonic() > 500, step=100.0)
    assert await running.finish(running.adapter.chat_admins(group)) == {"bob"}
