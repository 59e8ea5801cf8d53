"""The Feishu bot as a whole: the real lark client, the real pipeline, a SQLite file, and a platform on the loopback that misbehaves."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from adapters.feishu import sdk
from adapters.feishu.check import EVENTS, SCOPES
from tests.adapters.feishu.loopback import APP_SECRET, Failure, LoopbackFeishu
from tests.adapters.feishu.payloads import envelope, text_event
from tests.adapters.feishu.wires import signed
from tests.adapters.manual_clock import eventually
from tests.adapters.watched_loop import watched_loop
from tests.bots.live_wires import (
    Fault,
    FeishuWire,
    LeapingClock,
    LoopbackAnswers,
    MortalBot,
    Reaper,
    answers_to,
    assert_complete,
    database_bytes,
    free_port,
    line,
    listens,
    living,
    locks,
    rows,
    stored,
    system_clock,
    talk,
    talk_wildly,
    write_config,
)
from tests.bots.warm import PATIENCE, Warm

COUNT = 300
ENDPOINT = "/callback/ws/endpoint"


async def test_300_messages_under_every_fault_are_stored_once_and_every_question_is_answered_once(tmp_path: Path) -> None:
    """Also: no callback computes for 50 ms, and nothing blocks the event loop."""
    async with LoopbackFeishu() as feishu, LoopbackAnswers() as answers:
        config, clock = write_config(tmp_path, feishu=feishu, answers=answers), LeapingClock(10.0)
        wire = FeishuWire(feishu, clock.now)
        feishu.delays["/open-apis/contact/v3/users/member-3"] = 0.05
        feishu.failures["/open-apis/contact/v3/users/"] = [Failure(502, text="<html>"), Failure(400, 99991672)]
        async with living(config, ["feishu"], clock) as until:
            await until(lambda: feishu.connected)
            with watched_loop() as watch:
                await talk_wildly(wire, COUNT, _faults(feishu, clock))
                await feishu.drop()  # what was refused comes again with the next connection
                await until(lambda: len(stored(config, "feishu")) >= COUNT and len(feishu.messages) >= len(answers_to(COUNT)))
        assert_complete(config, wire, COUNT)
        assert watch.blocking == []
        assert watch.longest < 0.05, watch.culprit


def _faults(feishu: LoopbackFeishu, clock: LeapingClock) -> dict[int, Fault]:
    def fail(path: str, *failures: Failure) -> Fault:
        async def arm() -> None:
            feishu.failures[path] = list(failures)

        return arm

    async def until_reconnected(before: int) -> None:
        await eventually(lambda: feishu.connections > before, PATIENCE, tick=clock.leap)

    async def revoke_tokens() -> None:
        feishu.revoke_tokens()

    async def refuse_for_good() -> None:
        """A code of the endpoint that ends the SDK's own client without a word."""
        feishu.failures[ENDPOINT] = [Failure(200, 403)]
        before = feishu.connections
        await feishu.drop()
        await until_reconnected(before)
        assert feishu.failures[ENDPOINT] == []

    async def swallow_from_now_on() -> None:
        feishu.black_hole = True

    async def until_it_is_noticed() -> None:
        before = feishu.connections
        await until_reconnected(before)
        feishu.black_hole = False

    return {
        20: fail("/open-apis/im/v1/messages", Failure(502, text=""), Failure(429, text=""), Failure(400, 230020), Failure(400, 99991400)),
        60: feishu.drop,
        90: revoke_tokens,
        120: fail(ENDPOINT, Failure(502, text="<html>"), Failure(200, 1), Failure(200, text="")),
        121: feishu.drop,
        150: refuse_for_good,
        180: feishu.drop,
        250: swallow_from_now_on,
        260: until_it_is_noticed,
    }


class KillingFeishu(LoopbackFeishu):
    """Tells the reaper when the bot looks a sender up (nothing is stored yet), when it acknowledges (stored, the acknowledgement is lost with the bot), when it sends a reply
    that no member has seen yet, and when members see it but the bot has not been told.
    """

    def __init__(self, reaper: Reaper) -> None:
        super().__init__()
        self._reaper = reaper

    async def _frame(self, socket: web.WebSocketResponse, data: bytes) -> None:
        frame = sdk.load().ws.Frame()
        frame.ParseFromString(data)
        if {header.key: header.value for header in frame.headers}["type"] == "event" and json.loads(frame.payload)["code"] == 200 and self._reaper.comes("acknowledge"):
            return
        await super()._frame(socket, data)

    async def _rest(self, request: web.Request) -> web.Response:
        if "/contact/v3/users/" in request.path:
            self._reaper.comes("look_up")
        sends = request.path.startswith("/open-apis/im/v1/messages")
        if sends and self._reaper.comes("before_shown"):
            return web.Response(status=502)
        response = await super()._rest(request)
        if sends:
            self._reaper.comes("after_shown")
        return response


async def test_killed_between_store_acknowledge_answer_and_send_it_loses_nothing_and_says_nothing_twice(tmp_path: Path, warm: Warm) -> None:
    reaper, deaths = Reaper(), ("look_up", "acknowledge", "answering", "before_shown", "after_shown")
    async with KillingFeishu(reaper) as feishu, LoopbackAnswers(reaper) as answers:
        config, count = write_config(tmp_path, feishu=feishu, answers=answers), 10 * len(deaths)
        wire = FeishuWire(feishu, system_clock().now)
        async with MortalBot(warm, config, "feishu") as bot:
            reaper.kill = bot.kill
            for part, reaper.next_death in enumerate(deaths):
                talking = asyncio.create_task(talk(wire, range(10 * part, 10 * part + 10)))  # goes on while the bot is down
                await bot.restart_after(part + 1)
                await asyncio.wait_for(talking, PATIENCE)
            await eventually(lambda: len(stored(config, "feishu")) >= count and rows(config, "SELECT count(*) FROM replies WHERE state = 'sent'") == [(len(deaths),)], PATIENCE)
            await bot.finish()
        assert sorted(stored(config, "feishu")) == sorted(f"m{index}" for index in range(count))
        assert sorted(wire.shown()) == answers_to(count)
        sent = [call.body["uuid"] for call in feishu.calls if call.path.startswith("/open-apis/im/v1/messages")]
        assert max(map(sent.count, sent)) > 1  # it was sent again, and the platform knew the key
        assert len(answers.asked) > len(deaths)  # the answer that died with the bot was asked for again


async def test_a_late_acknowledgement_makes_the_platform_push_again_after_15_seconds_and_changes_nothing(tmp_path: Path) -> None:
    clock = LeapingClock()
    async with LoopbackFeishu(clock) as feishu, LoopbackAnswers() as answers:
        config = write_config(tmp_path, feishu=feishu, answers=answers)
        wire = FeishuWire(feishu, clock.now)
        async with living(config, ["feishu"], clock) as until:
            await until(lambda: feishu.connected)
            with closing(sqlite3.connect(tmp_path / "bot.db", isolation_level=None, timeout=0.0)) as other:
                await until(lambda: locks(other))  # a slow disk: nothing can be stored
                await wire.say("m0", *reversed(line(5)))
                await until(lambda: feishu.pushes["m0#0"] == 2, tick=lambda: clock.leap(0.5))
                assert feishu.acknowledged == []
                other.execute("ROLLBACK")
            await until(lambda: feishu.acknowledged == [("m0#0", 200)] * 2)
            await until(lambda: wire.shown(), tick=lambda: clock.leap(0.1))
            await until(lambda: rows(config, "SELECT count(*) FROM replies WHERE state = 'sent'") == [(1,)])
        assert stored(config, "feishu") == ["m0"]
        assert len(answers.asked) == len(wire.shown()) == 1


async def test_what_is_pushed_again_hours_later_after_a_restart_is_neither_stored_nor_answered_twice(tmp_path: Path) -> None:
    clock = LeapingClock()
    async with LoopbackFeishu(clock) as feishu, LoopbackAnswers() as answers:
        config = write_config(tmp_path, feishu=feishu, answers=answers, extra={"bot": {"max_reply_age_seconds": 300}})
        wire = FeishuWire(feishu, clock.now)
        feishu.loses_acknowledgements = True
        async with living(config, ["feishu"], clock) as until:
            await until(lambda: feishu.connected)
            await wire.say("m0", *reversed(line(5)))
            await until(lambda: wire.shown(), tick=lambda: clock.leap(0.1))
            await until(lambda: rows(config, "SELECT count(*) FROM replies WHERE state = 'sent'") == [(1,)])
        await wire.say("m1", *reversed(line(15)))  # while nobody is connected
        await clock.elapse(1800.0)
        feishu.loses_acknowledgements = False
        async with living(config, ["feishu"], clock) as until:
            await until(lambda: feishu.connected)
            await until(lambda: {key for key, _ in feishu.acknowledged} == {"m0#0", "m1#1"}, tick=lambda: clock.leap(10.0))
            await until(lambda: rows(config, "SELECT count(*) FROM messages WHERE utterance_id IS NULL") == [(0,)], tick=lambda: clock.leap(0.5))
        assert clock.monotonic() > 3600
        assert sorted(stored(config, "feishu")) == ["m0", "m1"]
        assert len(answers.asked) == len(wire.shown()) == 1  # the other question is an hour old: nobody waits for its answer any more


async def test_what_comes_under_two_ids_is_answered_once_and_vanishes_with_its_answer_when_it_is_recalled(tmp_path: Path) -> None:
    clock = LeapingClock(5.0)
    async with LoopbackFeishu() as feishu, LoopbackAnswers() as answers:
        config, wire = write_config(tmp_path, feishu=feishu, answers=answers), FeishuWire(feishu, clock.now)
        async with living(config, ["feishu"], clock) as until:
            await until(lambda: feishu.connected)
            said_at = int(clock.now().timestamp() * 1000)
            for name in ("m0", "copy"):
                await feishu.push(name, text_event(name, "它的密码是多少？", "chat-1", "asker", said_at))
            await until(lambda: wire.shown() and rows(config, "SELECT count(*) FROM messages WHERE utterance_id IS NOT NULL") == [(2,)])
            await feishu.push("late", text_event("late", "它的密码是多少？", "chat-1", "asker", said_at))
            await until(lambda: rows(config, "SELECT count(*) FROM messages WHERE utterance_id IS NOT NULL") == [(3,)])
            assert (wire.shown(), answers.asked) == (["答：mmpose的密码是多少？"], ["mmpose的密码是多少？"])
            await feishu.push("taken back", envelope("im.message.recalled_v1", {"chat_id": "chat-1", "message_id": "copy", "recall_time": str(said_at)}))
            await until(lambda: feishu.recalled, tick=lambda: clock.leap(1.0))
        assert feishu.recalled == [message["message_id"] for message in feishu.messages.values()]
        assert "密码".encode() not in database_bytes(config)


async def test_the_webhook_carries_a_question_in_and_the_answer_of_huixiangdou_out(tmp_path: Path) -> None:
    port, clock = free_port(), LeapingClock(10.0)
    async with LoopbackFeishu() as feishu, LoopbackAnswers() as answers, aiohttp.ClientSession() as platform:
        webhook = {"mode": "webhook", "encrypt_key": "encrypt-me", "listen": f"127.0.0.1:{port}"}
        config = write_config(tmp_path, feishu=feishu, answers=answers, extra={"feishu": webhook, "answer": {"kind": "huixiangdou"}})

        async def push(message_id: str, text: str) -> int:
            headers, body = signed(text_event(message_id, text, sender_id="asker", create_time=int(clock.now().timestamp() * 1000)), "encrypt-me", clock.now().timestamp())
            async with platform.post(f"http://127.0.0.1:{port}/feishu/events", data=body, headers=headers) as response:
                return response.status

        async with living(config, ["feishu"], clock) as until:
            await until(lambda: listens(port))
            for _ in range(2):
                assert await push("m0", "它怎么部署到 TX2？") == 200
            await until(lambda: rows(config, "SELECT count(*) FROM replies WHERE state = 'sent'") == [(1,)])
        assert stored(config, "feishu") == ["m0"]
        assert FeishuWire(feishu, clock.now).shown() == ["答：mmpose怎么部署到 TX2？"]


def changed(config: Path, name: str, old: str, new: str) -> Path:
    """A copy of a config file with other words in it."""
    path = config.with_name(name)
    path.write_text(config.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return path


@pytest.fixture
async def config(tmp_path: Path) -> AsyncIterator[Path]:
    """Config of an app for which everything is set up."""
    async with LoopbackFeishu() as feishu:
        feishu.scopes, feishu.subscribed = set(SCOPES), set(EVENTS)
        yield write_config(tmp_path, feishu=feishu)


async def test_check_and_groups_tell_an_admin_what_works_and_what_does_not(config: Path, warm: Warm) -> None:
    async def command(*arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and error of ``python -m bots.feishu``."""
        done = await asyncio.to_thread(warm.run, "bots.feishu", *arguments)
        return done.returncode, done.stdout, " ".join(done.stderr.split())

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
