"""What members and those who lead a group can do to a living bot, over the wire of each platform: leave without a trace, command it, be told what it does."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.adapters.feishu.loopback import LoopbackFeishu
from tests.adapters.feishu.payloads import envelope
from tests.adapters.wechat.loopback_puppet import BOT
from tests.bots.live_wires import FeishuWire, LeapingClock, LoopbackAnswers, ResyncingPuppet, WechatWire, Wire, database_bytes, living, stored, write_config

NOTICE = "本群由豆解记录"


@dataclass
class Stage:
    """A platform, and the config of a bot for it that is not running yet."""

    platform: str
    wire: Wire
    config: Path
    clock: LeapingClock
    answers: LoopbackAnswers


@pytest.fixture(params=["feishu", "wechat"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    clock = LeapingClock(5.0)
    extra = {"privacy": {"notice": NOTICE, "post_notice": "yes", "retention_days": 30}}
    async with AsyncExitStack() as stack:
        answers = await stack.enter_async_context(LoopbackAnswers())
        if request.param == "feishu":
            feishu = await stack.enter_async_context(LoopbackFeishu())
            feishu_wire = FeishuWire(feishu, clock.now)
            yield Stage("feishu", feishu_wire, write_config(tmp_path, feishu=feishu, answers=answers, extra=extra), clock, answers)
        else:
            puppet = await stack.enter_async_context(ResyncingPuppet())
            puppet_wire = WechatWire(puppet, clock.now)
            yield Stage("wechat", puppet_wire, write_config(tmp_path, puppet=puppet, answers=answers, extra=extra), clock, answers)


def replies(wire: Wire) -> list[str]:
    """What the bot said, but for the notice."""
    return [text for text in wire.shown() if text != NOTICE]


@pytest.mark.parametrize("wish", ["/dj opt out", "/豆解 忘记我"])
async def test_who_leaves_is_not_in_the_database_file_any_more_nor_shown_to_anybody(stage: Stage, wish: str) -> None:
    """A secret that was said, asked, put into a rewrite, answered and stored: none of it is left."""
    wire, config = stage.wire, stage.config
    async with living(config, [stage.platform], stage.clock) as until:
        await wire.say("m1", "爱丽丝的秘密计划", "alice")
        await wire.say("m2", "别的群里的秘密消息", "alice", "chat-2")
        await wire.say("m3", "爱丽丝的秘密怎么办？它行吗？", "alice")
        await wire.say("m4", "小波说的话", "bob")
        await until(lambda: sorted(stored(config, stage.platform)) == ["m1", "m3", "m4"] and len(replies(wire)) == 1)
        assert "秘密".encode() in database_bytes(config)
        await wire.say("m5", wish, "alice")
        await until(lambda: stored(config, stage.platform) == ["m4"] and len(replies(wire)) == 2)
        assert "2 条" in replies(wire)[1]
        assert "秘密".encode() not in database_bytes(config), "while the bot runs"
        before = len(stage.answers.asked)
        if "opt out" in wish:
            await wire.say("m6", "爱丽丝的又一个秘密怎么办？", "alice")
        await wire.say("m7", "小波又问：它怎么装？", "bob")
        await until(lambda: "m7" in stored(config, stage.platform) and len(replies(wire)) == 3)
    assert sorted(stored(config, stage.platform)) == ["m4", "m7"]
    assert "秘密" not in "".join(stage.answers.asked[before:])
    with closing(sqlite3.connect(config.with_name("bot.db"), isolation_level=None)) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    left = database_bytes(config)
    assert "秘密".encode() not in left
    assert "小波又问".encode() in left


async def test_owner_and_managers_of_the_group_command_the_bot_and_other_members_do_not(stage: Stage) -> None:
    wire, config = stage.wire, stage.config
    async with living(config, [stage.platform], stage.clock) as until:
        await wire.say("m1", "/dj off", "alice")
        await until(lambda: len(wire.shown()) == 1)
        assert "群主" in wire.shown()[0]
        await wire.say("m2", "/dj 关闭", "olive")
        await until(lambda: len(wire.shown()) == 2)
        assert "已关闭" in wire.shown()[1]
        await wire.say("m3", "这句不记录", "alice")
        await wire.say("m4", "/dj on", "max")
        await until(lambda: len(wire.shown()) == 3)
        await wire.say("m5", "这句记录", "alice")
        await until(lambda: stored(config, stage.platform) == ["m5"])


async def test_the_notice_is_posted_once_in_the_life_of_a_group(stage: Stage) -> None:
    async def added(number: int) -> None:
        if isinstance(stage.wire, FeishuWire):
            await stage.wire.server.push(f"added-{number}", envelope("im.chat.member.bot.added_v1", {"chat_id": "chat-1", "name": "一群"}, f"evt-added-{number}"))
        else:
            assert isinstance(stage.wire, WechatWire)
            stage.wire.server.event(19, {"roomId": "chat-1", "inviteeIdList": [BOT], "inviterId": "alice", "timestamp": 1})

    for run in range(2):
        async with living(stage.config, [stage.platform], stage.clock) as until:
            for number in range(2):
                await added(2 * run + number)
            await stage.wire.say(f"m{run}", "/dj help", f"member-{run}")
            await until(lambda run=run: len(stage.wire.shown()) == 2 + run)
    assert stage.wire.shown().count(NOTICE) == 1


async def test_a_group_that_is_allowed_after_the_bot_joined_is_told_before_anything_of_it_is_stored(stage: Stage) -> None:
    """As every admin does it: the bot has to be in the group before its id is known."""
    chosen = stage.config.read_text(encoding="utf-8")
    stage.config.write_text(chosen.replace("groups = chat-1", "groups = another"), encoding="utf-8")
    async with living(stage.config, [stage.platform], stage.clock) as until:
        await stage.wire.say("m1", "还没有允许", "alice")
        await stage.wire.say("m2", "别的群", "alice", "another")
        await until(lambda: stored(stage.config, stage.platform) == ["m2"] and stage.wire.shown() == [NOTICE])
    stage.config.write_text(chosen, encoding="utf-8")
    for run in range(2):
        async with living(stage.config, [stage.platform], stage.clock) as until:
            await stage.wire.say(f"m3{run}", f"现在允许了 {run}", "alice")
            await stage.wire.say(f"help{run}", "/dj help", f"member-{run}")
            await until(lambda run=run: f"m3{run}" in stored(stage.config, stage.platform) and len(replies(stage.wire)) == run + 1)
            await until(lambda: stage.wire.shown().count(NOTICE) == 2)


async def test_what_is_older_than_the_retention_is_erased_from_the_file_once_a_day(stage: Stage) -> None:
    wire, config = stage.wire, stage.config
    async with living(config, [stage.platform], stage.clock) as until:
        await wire.say("m1", "将来要删除的话", "alice")
        await until(lambda: stored(config, stage.platform) == ["m1"])
        stage.clock.leap(29 * 86400.0)
        await wire.say("m2", "还要保留的话", "bob")
        await until(lambda: stored(config, stage.platform) == ["m1", "m2"])
        stage.clock.leap(2 * 86400.0)
        # The look of the day may have been under way when the clock leapt: the next one is a day later.
        await until(lambda: stored(config, stage.platform) == ["m2"], tick=lambda: stage.clock.leap(120.0))
    assert "将来要删除".encode() not in database_bytes(config)
