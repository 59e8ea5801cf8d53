"""The WeChat bot as a whole: the real wechaty client, the real pipeline, a SQLite file, and a puppet service on the loopback that misbehaves. And both platforms together."""

from __future__ import annotations

import asyncio
import random
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
from tests.bots.live_wires import (
    PATIENCE,
    ROOT,
    FeishuWire,
    LoopbackAnswers,
    MortalBot,
    ResyncingPuppet,
    WechatWire,
    Wire,
    answers_to,
    free_port,
    line,
    living,
    rows,
    stored,
    system_clock,
    talk,
    write_config,
)

COUNT = 300
TOGETHER = 100


async def test_300_messages_under_every_fault_are_stored_once_and_every_question_is_answered_once(tmp_path: Path) -> None:
    async with ResyncingPuppet() as puppet, LoopbackAnswers() as answers:
        config, clock = write_config(tmp_path, puppet=puppet, answers=answers), system_clock(10.0)
        wire, chance = WechatWire(puppet, clock.now), random.Random(11)
        order = sorted(range(COUNT), key=lambda index: index + chance.uniform(0.0, 3.0))
        async with living(config, ["wechat"], clock) as until:
            await until(lambda: puppet.connected)
            for position, index in enumerate(order):
                if position % 60 == 59:
                    puppet.fail("MessagePayload", Status.UNAVAILABLE, Status.INTERNAL)
                    puppet.fail("ContactPayload", Status.UNAVAILABLE)
                if position % 100 == 99:  # what the cut swallows comes again with the next connection, as far as the service remembers
                    await until(lambda seen=position: len(stored(config, "wechat")) > seen - puppet.LAST // 2)
                    before = puppet.connections
                    puppet.drop() if position < 200 else puppet.end_stream(Status.UNAVAILABLE)
                    await until(lambda before=before: puppet.connections > before)
                sender, text = line(index)
                for _ in range(2 if chance.random() < 0.1 else 1):
                    await wire.say(f"m{index}", text, sender)
            await until(lambda: len(stored(config, "wechat")) >= COUNT and len(puppet.sent) >= len(answers_to(COUNT)))
        assert sorted(stored(config, "wechat")) == sorted(f"m{index}" for index in range(COUNT))
        assert sorted(wire.shown()) == answers_to(COUNT)


class KillingPuppet(ResyncingPuppet):
    """Kills the bot, once each: while it looks a sender up (nothing is stored yet), when it sends a reply that no member has seen yet, and when members see it but the bot has
    not been told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kill: Callable[[], None] = lambda: None
        self.next_death: str | None = None
        self._attempted: set[str] = set()

    def _dies(self, moment: str) -> bool:
        if self.next_death != moment:
            return False
        self.next_death = None
        self.kill()
        return True

    async def _contactpayload(self, request: Any, stream: Any) -> Any:
        self._dies("look_up")
        return await super()._contactpayload(request, stream)

    async def _messagesendtext(self, request: Any, stream: Any) -> Any:
        again = request.text in self._attempted  # a reply that two deaths left in doubt would be given up
        self._attempted.add(request.text)
        if not again and self._dies("before_shown"):
            await asyncio.Event().wait()  # until the connection is known to be gone
        answer = await super()._messagesendtext(request, stream)
        if not again:
            self._dies("after_shown")
        return answer


async def test_killed_between_store_and_send_it_loses_nothing_and_repeats_at_most_what_it_could_not_know(tmp_path: Path) -> None:
    async with KillingPuppet() as puppet, LoopbackAnswers() as answers:
        config = write_config(tmp_path, puppet=puppet, answers=answers)
        wire = WechatWire(puppet, system_clock().now)
        async with MortalBot.of(config, "wechat") as bot:
            puppet.kill = bot.kill
            for part, death in enumerate(("look_up", "before_shown", "after_shown")):
                puppet.next_death = death
                talking = asyncio.create_task(talk(wire, range(10 * part, 10 * part + 10)))  # goes on while the bot is down
                await bot.restart_after(part + 1)
                await asyncio.wait_for(talking, PATIENCE)
            await eventually(lambda: len(stored(config, "wechat")) >= 30 and rows(config, "SELECT count(*) FROM replies WHERE state = 'sent'") == [(3,)], PATIENCE)
            await bot.finish()
        assert sorted(stored(config, "wechat")) == sorted(f"m{index}" for index in range(30))
        shown = Counter(wire.shown())
        assert sorted(shown) == answers_to(30)
        assert sorted(shown.values()) == [1, 1, 2]  # twice only where the bot died before it was told


async def test_both_platforms_in_one_process_with_health_and_metrics(tmp_path: Path) -> None:
    async with LoopbackFeishu() as feishu, ResyncingPuppet() as puppet:
        port = free_port()
        config, now = write_config(tmp_path, feishu=feishu, puppet=puppet, web_port=port), system_clock().now
        bot = await spawn("bots.run", "wechat", "feishu", "--config", str(config))
        try:
            await chat(FeishuWire(feishu, now), WechatWire(puppet, now))
            await both_stored(config, bot)
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


async def test_two_processes_share_one_file(tmp_path: Path) -> None:
    async with LoopbackFeishu() as feishu, ResyncingPuppet() as puppet:
        config, now = write_config(tmp_path, feishu=feishu, puppet=puppet), system_clock().now
        bots = [await spawn(f"bots.{platform}", "--config", str(config)) for platform in ("feishu", "wechat")]
        try:
            await chat(FeishuWire(feishu, now), WechatWire(puppet, now))
            await both_stored(config, *bots)
        finally:
            assert await asyncio.gather(*map(finished, bots)) == [0, 0]
        for platform in ("feishu", "wechat"):
            assert sorted(stored(config, platform)) == sorted(f"m{index}" for index in range(TOGETHER))
        assert rows(config, "PRAGMA integrity_check") == [("ok",)]


async def chat(*wires: Wire) -> None:
    """The same conversation on each platform, side by side."""

    await asyncio.wait_for(asyncio.gather(*(talk(wire, range(TOGETHER)) for wire in wires)), PATIENCE)


async def both_stored(config: Path, *bots: asyncio.subprocess.Process) -> None:
    await eventually(
        lambda: any(bot.returncode is not None for bot in bots) or all(len(stored(config, platform)) >= TOGETHER for platform in ("feishu", "wechat")),
        PATIENCE,
    )
    assert [bot.returncode for bot in bots] == [None] * len(bots)


async def spawn(module: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, cwd=ROOT)


async def finished(bot: asyncio.subprocess.Process) -> int:
    """Stop it as systemd does."""
    if bot.returncode is None:
        bot.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(bot.wait(), PATIENCE)
