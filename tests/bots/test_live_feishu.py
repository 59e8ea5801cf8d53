"""The Feishu bot as a whole: the real lark client, the real pipeline, a SQLite file, and a platform on the loopback that misbehaves."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from adapters.feishu import sdk
from adapters.feishu.check import EVENTS, SCOPES
from tests.adapters.feishu.loopback import APP_SECRET, Failure, LoopbackFeishu
from tests.adapters.feishu.test_long_run import watched_loop
from tests.adapters.manual_clock import eventually
from tests.bots.live_wires import PATIENCE, ROOT, FeishuWire, LoopbackAnswers, MortalBot, answers_to, database_bytes, line, living, rows, stored, system_clock, talk, write_config

COUNT = 300
Fault = Callable[[], Awaitable[None]]


async def test_300_messages_under_every_fault_are_stored_once_and_every_question_is_answered_once(tmp_path: Path) -> None:
    """Also: no callback computes for 50 ms, and nothing blocks the event loop."""
    async with LoopbackFeishu() as feishu, LoopbackAnswers() as answers:
        config, clock = write_config(tmp_path, feishu=feishu, answers=answers), system_clock(10.0)
        wire = FeishuWire(feishu, clock.now)
        feishu.delays["/open-apis/contact/v3/users/member-3"] = 0.05
        feishu.failures["/open-apis/contact/v3/users/"] = [Failure(502, text="<html>"), Failure(400, 99991672)]
        async with living(config, ["feishu"], clock) as until:
            await until(lambda: feishu.connected)
            with watched_loop() as watch:
                await _talk(wire, _faults(feishu))
                before = feishu.connections
                await until(lambda: feishu.connections > before)  # the black hole is noticed
                feishu.black_hole = False
                await feishu.drop()
                await until(lambda: len(stored(config, "feishu")) >= COUNT and len(feishu.messages) >= len(answers_to(COUNT)))
        assert sorted(stored(config, "feishu")) == sorted(f"m{index}" for index in range(COUNT))
        assert sorted(wire.shown()) == answers_to(COUNT)
        assert rows(config, "SELECT count(*) FROM messages WHERE utterance_id IS NULL") == [(0,)]
        assert watch.blocking == []
        assert watch.longest < 0.05, watch.culprit


async def _talk(wire: FeishuWire, faults: dict[int, Fault]) -> None:
    """A conversation out of order by up to three places, with repetitions; faults strike at the given messages."""
    chance = random.Random(11)
    order = sorted(range(COUNT), key=lambda index: index + chance.uniform(0.0, 3.0))
    for position, index in enumerate(order):
        if position in faults:
            await faults[position]()
        sender, text = line(index)
        await wire.say(f"m{index}", text, sender)
        if chance.random() < 0.1:
            await wire.say(f"m{index}", text, sender)


def _faults(feishu: LoopbackFeishu) -> dict[int, Fault]:
    def fail(path: str, *failures: Failure) -> Fault:
        async def arm() -> None:
            feishu.failures[path] = list(failures)

        return arm

    async def revoke() -> None:
        feishu.revoke_tokens()

    async def swallow() -> None:
        feishu.black_hole = True

    return {
        20: fail("/open-apis/im/v1/messages", Failure(502, text=""), Failure(429, text=""), Failure(400, 230020), Failure(400, 99991400)),
        60: feishu.drop,
        90: revoke,
        120: fail("/callback/ws/endpoint", Failure(502, text="<html>"), Failure(200, 1), Failure(200, text="")),
        121: feishu.drop,
        180: feishu.drop,
        250: swallow,
    }


class KillingFeishu(LoopbackFeishu):
    """Kills the bot, once each: while it looks a sender up (nothing is stored yet), when it acknowledges (stored, the acknowledgement lost), when it sends a reply that no
    member has seen yet, and when members see it but the bot has not been told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kill: Callable[[], None] = lambda: None
        self.deaths = iter(("look_up", "acknowledge", "before_shown", "after_shown"))
        self.next_death: str | None = None

    def _dies(self, moment: str) -> bool:
        if self.next_death != moment:
            return False
        self.next_death = None
        self.kill()
        return True

    async def _frame(self, socket: web.WebSocketResponse, data: bytes) -> None:
        frame = sdk.load().ws.Frame()
        frame.ParseFromString(data)
        if {header.key: header.value for header in frame.headers}["type"] == "event" and json.loads(frame.payload)["code"] == 200 and self._dies("acknowledge"):
            return
        await super()._frame(socket, data)

    async def _rest(self, request: web.Request) -> web.Response:
        if "/contact/v3/users/" in request.path:
            self._dies("look_up")
        sends = request.path.startswith("/open-apis/im/v1/messages")
        if sends and self._dies("before_shown"):
            return web.Response(status=502)
        response = await super()._rest(request)
        if sends:
            self._dies("after_shown")
        return response


async def test_killed_between_store_acknowledge_and_send_it_loses_nothing_and_says_nothing_twice(tmp_path: Path) -> None:
    async with KillingFeishu() as feishu, LoopbackAnswers() as answers:
        config = write_config(tmp_path, feishu=feishu, answers=answers)
        wire = FeishuWire(feishu, system_clock().now)
        async with MortalBot.of(config, "feishu") as bot:
            feishu.kill = bot.kill
            for part, death in enumerate(feishu.deaths):
                feishu.next_death = death
                talking = asyncio.create_task(talk(wire, range(10 * part, 10 * part + 10)))  # goes on while the bot is down
                await bot.restart_after(part + 1)
                await asyncio.wait_for(talking, PATIENCE)
            await eventually(lambda: len(stored(config, "feishu")) >= 40 and rows(config, "SELECT count(*) FROM replies WHERE state = 'sent'") == [(4,)], PATIENCE)
            await bot.finish()
        assert sorted(stored(config, "feishu")) == sorted(f"m{index}" for index in range(40))
        assert sorted(wire.shown()) == answers_to(40)
        sent = [call.body["uuid"] for call in feishu.calls if call.path.startswith("/open-apis/im/v1/messages")]
        assert max(map(sent.count, sent)) > 1  # it was sent again, and the platform knew the key


async def test_groups_that_are_not_named_and_members_who_opt_out_leave_no_trace(tmp_path: Path) -> None:
    async with LoopbackFeishu() as feishu:
        config, clock = write_config(tmp_path, feishu=feishu), system_clock(5.0)
        wire = FeishuWire(feishu, clock.now)
        async with living(config, ["feishu"], clock) as until:
            await wire.say("m1", "爱丽丝的秘密计划", "alice")
            await wire.say("m2", "别的群里的秘密消息", "alice", "chat-2")
            await wire.say("m3", "小波说的话", "bob")
            await until(lambda: sorted(stored(config, "feishu")) == ["m1", "m3"])
            await wire.say("m4", "/dj opt out", "alice")
            await until(lambda: stored(config, "feishu") == ["m3"] and wire.shown())
            await wire.say("m5", "爱丽丝的又一个秘密", "alice")
            await wire.say("m6", "小波又说", "bob")
            await until(lambda: "m6" in stored(config, "feishu"))
        assert sorted(stored(config, "feishu")) == ["m3", "m6"]
        left = database_bytes(config)
        assert "秘密".encode() not in left
        assert "小波又说".encode() in left


def changed(config: Path, name: str, old: str, new: str) -> Path:
    """A copy of a config file with other words in it."""
    path = config.with_name(name)
    path.write_text(config.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return path


async def command(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and error of ``python -m bots.feishu``."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bots.feishu", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode, out.decode(), " ".join(err.decode().split())


@pytest.fixture
async def config(tmp_path: Path) -> AsyncIterator[Path]:
    """Config of an app for which everything is set up."""
    async with LoopbackFeishu() as feishu:
        feishu.scopes, feishu.subscribed = set(SCOPES), set(EVENTS)
        yield write_config(tmp_path, feishu=feishu)


async def test_check_and_groups_tell_an_admin_what_works_and_what_does_not(config: Path) -> None:
    empty, wrong = changed(config, "empty.ini", "app_", "# app_"), changed(config, "wrong.ini", APP_SECRET, "another-secret")
    checked, listed, unset, refused, unlisted, started = await asyncio.gather(
        command("--config", str(config), "--check"),
        command("--config", str(config), "--groups"),
        command("--config", str(empty), "--check"),
        command("--config", str(wrong), "--check"),
        command("--config", str(wrong), "--groups"),
        command("--config", str(empty)),
    )
    assert checked[0] == 0, checked
    assert "FAIL" not in checked[1]
    assert "group feishu: collected     chat-1  一群" in checked[1]
    assert listed[:2] == (0, "group feishu: collected     chat-1  一群\ngroup feishu: not collected chat-2  二群\n")
    assert unset[0] == 2
    assert "FAIL  feishu: credentials: [feishu] app_id or app_secret is missing" in unset[1]
    assert "凭证与基础信息" in unset[1]
    assert refused[0] == 2
    assert "FAIL  feishu: credentials" in refused[1]
    assert unlisted[0] == 2
    assert "groups cannot be listed" in unlisted[1]
    assert started[0] == 2
    assert "[feishu] app_id" in started[2]
    assert "Traceback" not in started[2]
    assert not any("another-secret" in text for text in (*refused[1:], *unlisted[1:]))
