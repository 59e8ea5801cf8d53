"""The WeChat bot as a whole: the real wechaty client, the real pipeline, a SQLite file, and a puppet service on the loopback that misbehaves. And both platforms together."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from grpclib.const import Status

from tests.adapters.feishu.loopback import LoopbackFeishu
from tests.adapters.manual_clock import eventually
from tests.adapters.watched_loop import watched_loop
from tests.adapters.wechat.loopback_puppet import LoopbackPuppet
from tests.bots.live_wires import (
    Fault,
    FeishuWire,
    LeapingClock,
    LoopbackAnswers,
    MortalBot,
    Reaper,
    ResyncingPuppet,
    WechatWire,
    Wire,
    answers_to,
    assert_complete,
    free_port,
    living,
    rows,
    stored,
    system_clock,
    talk,
    talk_wildly,
    write_config,
)
from tests.bots.warm import PATIENCE, ROOT, Warm

COUNT = 300
TOGETHER = 100


async def test_300_messages_under_every_fault_are_stored_once_and_every_question_is_answered_once(tmp_path: Path) -> None:
    """Also: no callback computes for 50 ms, and nothing blocks the event loop."""
    async with ResyncingPuppet() as puppet, LoopbackAnswers() as answers:
        config, clock = write_config(tmp_path, puppet=puppet, answers=answers), LeapingClock(10.0)
        wire = WechatWire(puppet, clock.now)
        async with living(config, ["wechat"], clock) as until:
            await until(lambda: puppet.connected)
            with watched_loop() as watch:
                await talk_wildly(wire, COUNT, _faults(puppet, clock, config))
                await until(lambda: len(stored(config, "wechat")) >= COUNT and len({*wire.shown()}) >= len(answers_to(COUNT)), tick=lambda: clock.leap(0.1))
        assert_complete(config, wire, COUNT)
        assert watch.blocking == []
        assert watch.longest < 0.05, watch.culprit


def _faults(puppet: ResyncingPuppet, clock: LeapingClock, config: Path) -> dict[int, Fault]:
    async def nearly_all_is_stored() -> None:
        """What a fault swallows comes again with the next connection, as far as the service remembers."""
        await eventually(lambda: len(stored(config, "wechat")) >= sum(message_id.startswith("m") for message_id in puppet.payloads) - puppet.LAST // 2, PATIENCE)

    async def no_reply_is_in_doubt() -> None:
        """What is cut off on its way may be said twice: nobody can know whether the group saw it, and here nothing may be said twice."""
        await eventually(lambda: rows(config, "SELECT count(*) FROM replies WHERE state = 'pending' AND error LIKE '%[unconfirmed %'") == [(0,)], PATIENCE)

    async def until_reconnected(before: int) -> None:
        await eventually(lambda: puppet.connections > before and puppet.connected, PATIENCE, tick=clock.leap)

    async def fail_look_ups() -> None:
        puppet.fail("MessagePayload", Status.UNAVAILABLE, Status.INTERNAL)
        puppet.fail("ContactPayload", Status.UNAVAILABLE)
        puppet.fail("RoomPayload", Status.INTERNAL)

    async def slow_down_a_look_up() -> None:
        slow = puppet.delays["m70"] = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, slow.set)

    async def limit_the_rate() -> None:
        puppet.fail("MessageSendText", Status.RESOURCE_EXHAUSTED, Status.RESOURCE_EXHAUSTED)

    async def drop() -> None:
        await nearly_all_is_stored()
        await no_reply_is_in_doubt()
        before = puppet.connections
        puppet.drop()
        await until_reconnected(before)

    async def end_the_stream() -> None:
        await nearly_all_is_stored()
        before = puppet.connections
        puppet.end_stream(Status.UNAVAILABLE)
        await until_reconnected(before)

    async def refuse_the_token() -> None:
        await nearly_all_is_stored()
        await no_reply_is_in_doubt()
        before = puppet.connections
        puppet.fail("Start", Status.UNAUTHENTICATED, Status.UNAVAILABLE)
        puppet.drop()
        await until_reconnected(before)

    async def fall_silent() -> None:
        await nearly_all_is_stored()
        puppet.mute()

    async def swallow_everything() -> None:
        await nearly_all_is_stored()
        puppet.black_hole()

    async def until_it_is_noticed() -> None:
        before = puppet.connections
        await until_reconnected(before)

    return {
        30: fail_look_ups,
        60: drop,
        65: slow_down_a_look_up,
        90: limit_the_rate,
        120: end_the_stream,
        150: fall_silent,
        160: until_it_is_noticed,
        190: refuse_the_token,
        220: swallow_everything,
        230: until_it_is_noticed,
        260: fail_look_ups,
    }


class KillingPuppet(ResyncingPuppet):
    """Tells the reaper when the bot looks a sender up (nothing is stored yet), when it sends a reply that no member has seen yet, and when members see it but the bot has not
    been told.
    """

    def __init__(self, reaper: Reaper) -> None:
        super().__init__()
        self._reaper = reaper
        self._attempted: set[str] = set()

    async def _contactpayload(self, request: Any, stream: Any) -> Any:
        self._reaper.comes("look_up")
        return await super()._contactpayload(request, stream)

    async def _messagesendtext(self, request: Any, stream: Any) -> Any:
        again = request.text in self._attempted  # a reply that two deaths left in doubt would be given up
        self._attempted.add(request.text)
        if not again and self._reaper.comes("before_shown"):
            await asyncio.Event().wait()  # until the connection is known to be gone
        answer = await super()._messagesendtext(request, stream)
        if not again:
            self._reaper.comes("after_shown")
        return answer


async def test_killed_between_store_answer_and_send_it_loses_nothing_and_repeats_at_most_what_it_could_not_know(tmp_path: Path, warm: Warm) -> None:
    reaper, deaths = Reaper(), ("look_up", "answering", "before_shown", "after_shown")
    async with KillingPuppet(reaper) as puppet, LoopbackAnswers(reaper) as answers:
        config, count = write_config(tmp_path, puppet=puppet, answers=answers), 10 * len(deaths)
        wire = WechatWire(puppet, system_clock().now)
        async with MortalBot(warm, config, "wechat") as bot:
            reaper.kill = bot.kill
            for part, reaper.next_death in enumerate(deaths):
                talking = asyncio.create_task(talk(wire, range(10 * part, 10 * part + 10)))  # goes on while the bot is down
                await bot.restart_after(part + 1)
                await asyncio.wait_for(talking, PATIENCE)
            await eventually(lambda: len(stored(config, "wechat")) >= count and rows(config, "SELECT count(*) FROM replies WHERE state = 'sent'") == [(len(deaths),)], PATIENCE)
            await bot.finish()
        assert sorted(stored(config, "wechat")) == sorted(f"m{index}" for index in range(count))
        shown = Counter(wire.shown())
        assert sorted(shown) == answers_to(count)
        assert sorted(shown.values()) == [1, 1, 1, 2]  # twice only where the bot died before it was told
        assert len(answers.asked) > len(deaths)


async def test_what_it_had_heard_of_but_not_fetched_when_it_died_is_stored_after_its_restart(tmp_path: Path, warm: Warm) -> None:
    """The service names each message once and never again."""
    async with LoopbackPuppet() as puppet:
        config, wire = write_config(tmp_path, puppet=puppet), WechatWire(puppet, system_clock().now)
        puppet.hanging.add("MessagePayload")
        async with MortalBot(warm, config, "wechat") as bot:
            await talk(wire, range(10))
            await eventually(lambda: rows(config, "SELECT count(*) FROM announcements") == [(10,)], PATIENCE)
            bot.kill()
            puppet.hanging.clear()
            await bot.restart_after(1)
            await eventually(lambda: len(stored(config, "wechat")) == 10, PATIENCE)
            await talk(wire, range(10, 12))
            await eventually(lambda: len(stored(config, "wechat")) == 12 and rows(config, "SELECT count(*) FROM announcements") == [(0,)], PATIENCE)
            await bot.finish()
        assert rows(config, "SELECT message_id FROM messages ORDER BY id") == [(f"m{index}",) for index in range(12)]


async def test_both_platforms_in_one_process_with_health_and_metrics(tmp_path: Path) -> None:
    async with LoopbackFeishu() as feishu, ResyncingPuppet() as puppet:
        port = free_port()
        config, now = write_config(tmp_path, feishu=feishu, puppet=puppet, extra={"web": {"port": port}}), system_clock().now
        bot = await spawn("bots.run", "wechat", "feishu", "--config", str(config))
        try:
            await chat(FeishuWire(feishu, now), WechatWire(puppet, now))
            await both_stored(config, lambda: bot.returncode is not None)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as web:
                async with web.get("/healthz") as alive:
                    assert (alive.status, await alive.json()) == (200, {"status": "ok"})
                async with web.get("/readyz") as ready:
                    assert ready.status == 200
                    assert {platform: adapter["connected"] for platform, adapter in (await ready.json())["adapters"].items()} == {"wechat": True, "feishu": True}
                async with web.get("/metrics") as metrics:
                    told = await metrics.text()
        finally:
            assert await finished(bot) == 0
    for platform in ("wechat", "feishu"):
        assert any("received" in sample and f'"{platform}"' in sample and float(sample.split()[-1]) >= TOGETHER for sample in told.splitlines() if not sample.startswith("#"))
    assert "随便聊聊" not in told


async def test_two_processes_share_one_file(tmp_path: Path, warm: Warm) -> None:
    async with LoopbackFeishu() as feishu, ResyncingPuppet() as puppet:
        config, now = write_config(tmp_path, feishu=feishu, puppet=puppet), system_clock().now
        bots = [await asyncio.to_thread(warm.command, f"bots.{platform}", "--config", str(config)) for platform in ("feishu", "wechat")]
        try:
            await chat(FeishuWire(feishu, now), WechatWire(puppet, now))
            await both_stored(config, lambda: not all(bot.alive for bot in bots))
        finally:
            for bot in bots:
                bot.send(signal.SIGTERM)
            assert [await bot.ended() for bot in bots] == [0, 0]
        for platform in ("feishu", "wechat"):
            assert sorted(stored(config, platform)) == sorted(f"m{index}" for index in range(TOGETHER))
        assert rows(config, "PRAGMA integrity_check") == [("ok",)]


async def chat(*wires: Wire) -> None:
    """The same conversation on each platform, side by side."""

    await asyncio.wait_for(asyncio.gather(*(talk(wire, range(TOGETHER)) for wire in wires)), PATIENCE)


async def both_stored(config: Path, died: Callable[[], bool]) -> None:
    await eventually(lambda: died() or all(len(stored(config, platform)) >= TOGETHER for platform in ("feishu", "wechat")), PATIENCE)
    assert not died()


async def spawn(module: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, cwd=ROOT)


async def finished(bot: asyncio.subprocess.Process) -> int:
    """Stop it as systemd does."""
    if bot.returncode is None:
        bot.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(bot.wait(), PATIENCE)
