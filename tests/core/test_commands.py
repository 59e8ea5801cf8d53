from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from core.commands import COMMANDS_PER_HOUR, Action, Command, CommandHandler, parse_command
from core.errors import StorageError
from core.groups import ReplyMode
from core.messages import ConversationKey, Recall
from core.ports import OutgoingReply
from storage.outbox import ReplyState
from tests.core.house import GROUP, House, Leaders, open_house, resolution, verdict


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "d.db") as house:
        yield house


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/dj", Command(Action.HELP)),
        ("/DJ Help", Command(Action.HELP)),
        ("/豆解帮助", Command(Action.HELP)),
        ("／ｄｊ　状态", Command(Action.STATUS)),
        ("  /dj\ton ", Command(Action.ON)),
        ("/dj 开", Command(Action.ON)),
        ("/dj 关闭", Command(Action.OFF)),
        ("/dj reply off", Command(Action.REPLY, ReplyMode.OFF)),
        ("/dj 回复改写", Command(Action.REPLY, ReplyMode.REWRITE)),
        ("/豆解 回复 回答", Command(Action.REPLY, ReplyMode.ANSWER)),
        ("/dj stats", Command(Action.STATS)),
        ("/dj forget me", Command(Action.FORGET)),
        ("/dj 忘记我", Command(Action.FORGET)),
        ("/dj opt   out", Command(Action.OPT_OUT)),
        ("/dj 退出", Command(Action.OPT_OUT)),
        ("/dj opt in", Command(Action.OPT_IN)),
        ("/dj 错了", Command(Action.WRONG)),
        ("@豆解 /dj status", Command(Action.STATUS)),
        ("@豆解\u2005/dj status", Command(Action.STATUS)),
        ("「豆解：本群已启用豆解」\n- - - - - -\n/dj opt out", Command(Action.OPT_OUT)),
        ("「老周：/dj opt out」\n- - - - - -\n这是什么", None),
        ("/dj reply loud", Command(Action.UNKNOWN)),
        ("/dj; rm -rf /", Command(Action.UNKNOWN)),
        ("/django 怎么部署？", None),
        ("/dj2", None),
        ("看看 /dj help", None),
        ("dj help", None),
        ("", None),
        ("@豆解 怎么部署？", None),
    ],
)
def test_parsing(text: str, command: Command | None) -> None:
    assert parse_command(text) == command


@given(st.text())
def test_parsing_takes_any_text(text: str) -> None:
    parsed = parse_command("/dj " + text)
    assert parsed is not None
    assert (parsed.reply is not None) == (parsed.action is Action.REPLY)


async def test_admins_switch_the_group_and_a_restart_keeps_it(tmp_path: Path) -> None:
    async with open_house(tmp_path / "d.db") as house:
        assert "关闭" in await house.say(1, "/dj off", sender="boss")
        assert "改写" in await house.say(2, "/dj 回复 改写", sender="chief")
        await house.say(3, "不记录")
    async with open_house(tmp_path / "d.db") as house:
        assert not house.groups.enabled(GROUP)
        assert house.groups.reply_mode(GROUP) is ReplyMode.REWRITE
        status = await house.say(4, "/dj status", sender="boss")
        assert "已关闭" in status
        assert "g1" in status
        await house.say(5, "/dj on", sender="boss")
        await house.say(6, "记录")
        assert await house.texts() == ["记录"]


async def test_the_log_tells_an_admin_to_be_their_own_id(house: House) -> None:
    with capture_logs() as logs:
        await house.say(1, "/dj help", sender="ou_newcomer")
    (entry,) = [entry for entry in logs if entry["event"] == "command"]
    assert (entry["sender_id"], entry["admin"], entry["log_level"]) == ("ou_newcomer", False, "info")


async def test_who_takes_the_name_or_the_id_of_an_admin_for_a_name_is_none(house: House) -> None:
    for number, name in enumerate(["boss", "feishu:boss", "名字boss"]):
        await house.ingest.message(replace(house.message(number, "/dj off", sender=f"u{number}"), sender_name=name))
    assert house.groups.enabled(GROUP)


async def test_a_command_that_comes_under_another_id_is_carried_out_and_answered_once(house: House) -> None:
    assert await house.say(1, "/dj off", sender="boss")
    assert not await house.say(2, "/dj off", sender="boss")
    assert await house.say(3, "/dj on", sender="boss")
    assert await house.say(4, "/dj off", sender="boss"), "it was not the last one"
    await house.clock.advance(11)
    assert await house.say(5, "/dj off", sender="boss"), "it was typed again"


async def test_a_command_that_failed_is_carried_out_when_it_comes_again_under_another_id(house: House, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "d.db")
    other.execute("CREATE TRIGGER refuse BEFORE INSERT ON replies BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StorageError):
        await house.say(1, "/dj help")
    other.execute("DROP TRIGGER refuse")
    other.close()
    assert await house.say(2, "/dj help")


@pytest.mark.parametrize("switch", ["/dj off", "/dj reply off"])
async def test_replies_that_wait_are_given_up_with_the_switch_that_ends_them(house: House, switch: str) -> None:
    for key, group in (("reply:q1", GROUP), ("reply:q2", ConversationKey("feishu", "g2")), ("notice:feishu:g1", GROUP)):
        await house.delivery.enqueue(OutgoingReply(group, "答案", key))
    assert await house.say(1, switch, sender="boss")
    states = [queued.state for key in ("reply:q1", "reply:q2", "notice:feishu:g1") if (queued := await house.outbox.get(key)) is not None]
    assert states == [ReplyState.EXPIRED, ReplyState.PENDING, ReplyState.PENDING]


async def test_a_group_is_not_promised_answers_that_nobody_gives(house: House) -> None:
    mute = CommandHandler(house.delivery, house.groups, house.consent, house.store, house.store, ["boss"], can_answer=False, clock=house.clock)
    message = house.message(1, "/dj reply answer", sender="boss")
    await mute.handle(message, Command(Action.REPLY, ReplyMode.ANSWER), allowed=True)
    queued = await house.outbox.get(f"command:{message.key}")
    assert queued is not None
    assert "[answer] base_url" in queued.reply.text
    assert house.groups.reply_mode(GROUP) is ReplyMode.OFF


async def test_members_may_not_command_but_may_leave(house: House) -> None:
    for number, text in enumerate(["/dj off", "/dj status", "/dj stats", "/dj reply answer"]):
        assert "管理员" in await house.say(number, text)
    assert house.groups.enabled(GROUP)
    assert house.groups.reply_mode(GROUP) is ReplyMode.OFF
    assert "管理员：" not in await house.say(10, "/dj help")
    assert "管理员：" in await house.say(11, "/dj help", sender="boss")


async def test_owner_and_managers_of_a_group_command_the_bot_there_and_nowhere_else(tmp_path: Path) -> None:
    leaders = Leaders(g1=frozenset({"owner"}), g9=frozenset({"owner"}))
    async with open_house(tmp_path / "d.db", allowed=("g1", "g2"), leaders=leaders) as house:
        assert "管理员：" in await house.say(1, "/dj help", sender="owner")
        assert "已关闭" in await house.say(2, "/dj off", sender="owner")
        assert not house.groups.enabled(GROUP)
        assert "管理员" in await house.say(3, "/dj off", sender="owner", chat="g2")
        assert house.groups.enabled(ConversationKey("feishu", "g2"))
        assert leaders.asked == ["g1", "g1", "g2"]
        assert await house.say(4, "/dj on", sender="owner", chat="g9") == ""
        await house.say(5, "/dj opt out")
        await house.say(6, "/dj on", sender="boss")
        assert leaders.asked == ["g1", "g1", "g2"], "nobody is asked where it does not matter"


async def test_opting_out_and_in(house: House) -> None:
    await house.say(1, "quokka")
    await house.say(2, "别人的话", sender="u2")
    assert "1 条" in await house.say(3, "/dj 退出")
    assert await house.texts() == ["别人的话"]
    assert house.recalled == ["m1"]
    await house.say(4, "quokka 又来")
    assert "记录你的消息" in await house.say(5, "/dj opt in")
    await house.say(6, "回来了")
    assert await house.texts() == ["别人的话", "回来了"]
    assert [event.message.message_id for event in house.stored] == ["m1", "m2", "m6"]


async def test_forget_me_erases_and_goes_on_recording(house: House) -> None:
    await house.say(1, "quokka")
    await house.say(2, "/dj forget me")
    await house.say(3, "新的")
    assert await house.texts() == ["新的"]
    assert house.recalled == ["m1"]


async def test_a_command_that_is_pushed_again_after_a_restart_changes_nothing(tmp_path: Path) -> None:
    async with open_house(tmp_path / "d.db") as house:
        off = house.message(1, "/dj off", sender="boss")
        await house.ingest.message(off)
        await house.say(2, "/dj on", sender="boss")
        await house.ingest.message(off)
        assert house.groups.enabled(GROUP)
    async with open_house(tmp_path / "d.db") as house:
        await house.ingest.message(off)
        assert house.groups.enabled(GROUP)


async def test_nothing_that_a_member_typed_comes_back(house: House) -> None:
    answer = await house.say(1, '/dj {0.__class__} <at user_id="all"> $(id) \'; DROP TABLE messages; --', sender="boss")
    assert "看懂" in answer
    assert not set("{<$'") & set(answer)
    assert await house.inbox.count() == 0


async def test_a_member_cannot_flood_the_group_with_commands_yet_is_always_heard_opting_out(house: House) -> None:
    answers = []
    for number in range(COMMANDS_PER_HOUR + 5):
        answers.append(await house.say(number, "/dj help"))
        await house.clock.advance(11)
    assert sum(bool(answer) for answer in answers) == COMMANDS_PER_HOUR
    assert await house.say(100, "/dj opt out")
    await house.clock.advance(11)
    assert not await house.say(101, "/dj opt out")
    assert house.consent.opted_out("feishu", "u1")
    assert await house.say(102, "/dj help", sender="u2")
    await house.clock.advance(3601)
    assert await house.say(103, "/dj help")


async def test_in_a_group_that_is_not_allowed_only_an_admin_is_told_its_id(house: House) -> None:
    assert await house.say(1, "/dj help", chat="g9") == ""
    assert await house.say(2, "/dj on", chat="g9", sender="boss") == "豆解没有记录本群。要启用，请把群 id 加入配置 [bot] groups：g9"


@pytest.mark.parametrize("wish", ["/dj forget me", "/dj opt out"])
async def test_who_wants_to_be_forgotten_is_heard_in_a_group_that_is_allowed_no_more(tmp_path: Path, wish: str) -> None:
    async with open_house(tmp_path / "d.db") as house:
        await house.say(1, "我住在三号楼")
        await house.say(2, "你好", sender="u2")
    async with open_house(tmp_path / "d.db", allowed=()) as house:
        assert "1 条" in await house.say(3, wish)
        assert await house.texts() == ["你好"]
        assert house.consent.opted_out("feishu", "u1") is (wish == "/dj opt out")


async def test_stats_count_this_group(house: House) -> None:
    await house.say(1, "大家好")
    await house.say(2, "别的群", chat="g2")
    judged, resolved = await house.ask(3, sender="u2"), await house.ask(4, sender="u3")
    for question in (judged, resolved):
        await house.log.judged(question.id, verdict(0.9))
    await house.log.resolved(judged.id, resolution("甲"))
    await house.log.resolved(judged.id, resolution(None))
    await house.log.resolved(resolved.id, resolution("乙"))
    await house.outbox.enqueue(OutgoingReply(GROUP, "乙", f"reply:{resolved.id}"))
    await house.outbox.sent(f"reply:{resolved.id}", "om_1")
    assert await house.say(9, "/dj 统计", sender="boss") == "消息 3，提问 2，已判断 2，已补全 1，已回复 1"
    since = await house.store.of_group(GROUP, house.clock.now())
    await house.clock.advance(1)
    assert since.messages == 3
    assert (await house.store.of_group(GROUP, house.clock.now())).messages == 0


async def test_wrong_marks_the_last_or_the_quoted_reply(house: House) -> None:
    assert "没有找到" in await house.say(1, "/dj 错了")
    first, second = await house.ask(2), await house.ask(3, "它快吗？")
    for number, question in enumerate((first, second)):
        await house.outbox.enqueue(OutgoingReply(GROUP, "…", f"reply:{question.id}"))
        await house.outbox.sent(f"reply:{question.id}", f"om_{number}")
        await house.clock.advance(1)
    assert "已记下" in await house.say(4, "/dj wrong", sender="u2")
    assert list(await house.store.complained()) == [second.id]
    await house.clock.advance(1)
    assert "没有找到" in await house.say(5, "/dj wrong", reply_to="om_unknown")
    assert "已记下" in await house.say(6, "/dj wrong", reply_to="om_0")
    await house.clock.advance(11)
    assert "已记下" in await house.say(7, "/dj wrong", reply_to="om_0")
    assert list(await house.store.complained()) == [second.id, first.id]
    await house.ingest.recall(Recall("feishu", "g1", "m2", house.clock.now()))
    assert list(await house.store.complained()) == [second.id]
