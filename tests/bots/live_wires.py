"""What the tests of living bots share: the two platforms on the loopback under one form, an answer service, a config file, and a bot inside or outside of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import signal
import socket
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self

from aiohttp import web

from adapters.wechat.payloads import MENTION_SEPARATOR
from bots.live import live
from bots.replay import ScaledClock
from core.config import load_config
from tests.adapters.feishu.loopback import APP_ID, APP_SECRET, LoopbackFeishu
from tests.adapters.feishu.payloads import text_event
from tests.adapters.manual_clock import eventually
from tests.adapters.wechat.loopback_puppet import LoopbackPuppet, pb
from tests.bots.live_bot import ANTECEDENT, PRONOUN, rule_models
from tests.bots.warm import PATIENCE, Forked, Warm

Fault = Callable[[], Awaitable[None]]
"""Something that goes wrong in the middle of a conversation."""

_MENTION = re.compile(r'^<at user_id="[^"]*"></at> ')


class LoopbackAnswers:
    """An OpenAI-compatible service, and HuixiangDou's own server, that answers each question with itself."""

    def __init__(self, reaper: Reaper | None = None) -> None:
        self.asked: list[str] = []
        self._reaper = reaper

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._answer)
        application.router.add_post("/huixiangdou_inference", self._infer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        question = (await request.json())["messages"][-1]["content"]
        self.asked.append(question)
        if self._reaper is not None and self._reaper.comes("answering"):
            return web.Response(status=503)
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": f"答：{question}"}}]})

    async def _infer(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.asked.append(asked["text"])
        assert asked["image"] == ""
        return web.json_response({"step": [{"state": "检索", "response": "", "refs": []}, {"state": "成功", "response": f"答：{asked['text']}", "refs": ["faq.md"]}], "debug": {}})


class Wire(Protocol):
    """A platform as its members see it."""

    platform: str

    async def say(self, message_id: str, text: str, sender: str = "alice", chat: str = "chat-1") -> None:
        """A member sends a message; the same id again is a repetition by the platform."""

    def shown(self) -> list[str]:
        """Texts that the bot sent to the groups without the mention of the asker, each as often as members see it."""


class FeishuWire:
    """Over the long connection. A repetition is a frame of its own."""

    platform = "feishu"

    def __init__(self, server: LoopbackFeishu, now: Callable[[], datetime]) -> None:
        self.server, self._now, self._frames = server, now, itertools.count()
        self._said_at: dict[str, int] = {}

    async def say(self, message_id: str, text: str, sender: str = "alice", chat: str = "chat-1") -> None:
        at = self._said_at.setdefault(message_id, int(self._now().timestamp() * 1000))
        await self.server.push(f"{message_id}#{next(self._frames)}", text_event(message_id, text, chat, sender, at))

    def shown(self) -> list[str]:
        return [_MENTION.sub("", message["text"]) for message in self.server.messages.values()]


class ResyncingPuppet(LoopbackPuppet):
    """After each reconnect it tells of the last messages again, as a puppet service does when it synchronises: what the cut line swallowed comes so."""

    LAST = 40

    def __init__(self) -> None:
        super().__init__()
        self.connections = 0
        self._last: list[str] = []

    def message(self, message_id: str, text: str = "你好", **values: Any) -> None:
        if message_id not in self._last:
            self._last = [*self._last, message_id][-self.LAST :]
        super().message(message_id, text, **values)

    async def _events(self, stream: Any) -> None:
        self.connections += 1
        known = {response.payload for response in self._backlog}
        again = [pb.EventResponse(type=2, payload=f'{{"messageId": "{message_id}"}}') for message_id in self._last]
        self._backlog = [response for response in again if response.payload not in known] + self._backlog
        await super()._events(stream)


class WechatWire:
    """Over the puppet service."""

    platform = "wechat"

    def __init__(self, server: LoopbackPuppet, now: Callable[[], datetime]) -> None:
        self.server, self._now = server, now

    async def say(self, message_id: str, text: str, sender: str = "alice", chat: str = "chat-1") -> None:
        known = self.server.payloads.get(message_id)
        self.server.message(message_id, text, room=chat, sender=sender, at=known.timestamp if known else self._now().timestamp())
        await asyncio.sleep(0)

    def shown(self) -> list[str]:
        return [text.rpartition(MENTION_SEPARATOR)[2] for _, text, _ in self.server.sent]


def write_config(
    directory: Path,
    *,
    feishu: LoopbackFeishu | None = None,
    puppet: LoopbackPuppet | None = None,
    answers: LoopbackAnswers | None = None,
    name: str = "config.ini",
    extra: Mapping[str, Mapping[str, object]] | None = None,
) -> Path:
    """A config file for the servers that are given, with a database beside it. Windows are short, and limits of replies far away. ``extra``: further keys by section."""
    sections: dict[str, dict[str, object]] = {
        "bot": {
            "groups": "chat-1",
            "reply": "answer" if answers else "off",
            "group_replies_per_hour": 10000,
            "member_replies_per_hour": 10000,
            "max_reply_age_seconds": 36000,
            "log_level": "warning",
            "log_format": "json",
        },
        "merge": {"window_seconds": 1, "finished_window_seconds": 1},
        "gate": {"backend": "none"},
        "storage": {"url": f"sqlite:///{directory / 'bot.db'}"},
        "privacy": {"post_notice": "no"},
        "answer": {"base_url": answers.url, "model": "echo"} if answers else {},
        "feishu": {"app_id": APP_ID, "app_secret": APP_SECRET, "domain": feishu.domain} if feishu else {},
        "wechat": {"provider": "wechaty", "endpoint": puppet.endpoint, "token": "token-of-the-puppet"} if puppet else {},
    }
    for section, pairs in (extra or {}).items():
        sections[section] = {**sections.get(section, {}), **pairs}
    path = directory / name
    path.write_text("\n".join(f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in pairs.items()) for name, pairs in sections.items() if pairs), encoding="utf-8")
    return path


def line(index: int) -> tuple[str, str]:
    """(sender, text) of the ``index``-th message of a conversation: each tenth is a question of somebody who says nothing else."""
    return (f"asker-{index}", f"第 {index} 个问题：{PRONOUN}怎么部署到 TX2？") if index % 10 == 5 else (f"member-{index % 7}", f"第 {index} 句，随便聊聊")


async def talk(wire: Wire, indices: Iterable[int]) -> None:
    for index in indices:
        sender, text = line(index)
        await wire.say(f"m{index}", text, sender)


async def talk_wildly(wire: Wire, count: int, faults: Mapping[int, Fault]) -> None:
    """The first ``count`` messages, out of order by up to three places, with repetitions; faults strike at the given places."""
    chance = random.Random(11)
    order = sorted(range(count), key=lambda index: index + chance.uniform(0.0, 3.0))
    for position, index in enumerate(order):
        if position in faults:
            await faults[position]()
        sender, text = line(index)
        for _ in range(2 if chance.random() < 0.1 else 1):
            await wire.say(f"m{index}", text, sender)


def assert_complete(config: Path, wire: Wire, count: int) -> None:
    """The first ``count`` messages are stored and merged once, and their questions answered once."""
    assert sorted(stored(config, wire.platform)) == sorted(f"m{index}" for index in range(count))
    shown, wanted = Counter(wire.shown()), Counter(answers_to(count))
    assert shown == wanted, f"missing: {wanted - shown}, too many: {shown - wanted}"
    assert rows(config, "SELECT count(*) FROM messages WHERE utterance_id IS NULL") == [(0,)]


def answers_to(count: int) -> list[str]:
    """What the bot says in a conversation of ``count`` lines, sorted."""
    return sorted(f"答：{text.replace(PRONOUN, ANTECEDENT)}" for _, text in map(line, range(count)) if PRONOUN in text)


def rows(config: Path, sql: str) -> list[tuple[Any, ...]]:
    """What the database of a config holds now; nothing before it exists, and while it is locked: waiting here would hold up the bot that has to finish."""
    try:
        with closing(sqlite3.connect(f"file:{config.with_name('bot.db')}?mode=ro", uri=True, timeout=0.0)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


def locks(other: sqlite3.Connection) -> bool:
    """Whether another process now holds the write lock. It never waits: that would hold up the very bot that has to let go."""
    try:
        other.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    return True


def stored(config: Path, platform: str) -> list[str]:
    """Ids of the stored messages of a platform, as often as they are stored, without the marks that keep out what was forgotten."""
    return [row[0] for row in rows(config, f"SELECT message_id FROM messages WHERE platform = '{platform}' AND sender_id != ''")]


def database_bytes(config: Path) -> bytes:
    """All that stands in the files of the database."""
    return b"".join(path.read_bytes() for path in sorted(config.parent.glob("bot.db*")))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def living(config: Path, platforms: Sequence[str], clock: ScaledClock) -> AsyncIterator[Callable[..., Any]]:
    """A bot in this process, with the rules of :mod:`tests.bots.live_bot` as models. Gives ``until(condition, tick)``, which fails at once when the bot ends."""
    stop = asyncio.Event()
    bot = asyncio.create_task(live(load_config(config, {}), platforms, stop, clock, rule_models()))

    async def until(condition: Callable[[], object], tick: Callable[[], object] | None = None) -> None:
        await eventually(lambda: bot.done() or condition(), PATIENCE, tick)
        if bot.done():
            raise AssertionError(f"the bot ended: {bot.result()}")

    try:
        yield until
    finally:
        stop.set()
        assert await asyncio.wait_for(bot, PATIENCE) == 0


class MortalBot:
    """A bot in a process of its own that can be killed and started again, each time ``LATER`` seconds ahead: claims of replies have run out then."""

    LATER = 150.0

    def __init__(self, warm: Warm, config: Path, *platforms: str) -> None:
        self._warm, self._config, self._platforms = warm, config, platforms
        self._process: Forked | None = None
        self.kills = self._starts = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.ended()

    async def start(self) -> None:
        self._process = await asyncio.to_thread(self._warm.start, "tests.bots.live_bot:run", str(self._config), self._starts * self.LATER, *self._platforms)
        self._starts += 1

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def kill(self) -> None:
        """kill -9, now."""
        if self._process is not None:
            self._process.kill()
        self.kills += 1

    async def restart_after(self, kills: int) -> None:
        """Wait until the bot was killed for the ``kills``-th time, and start it again."""
        await eventually(lambda: self.kills == kills and not self.alive, PATIENCE)
        await self.start()

    async def finish(self) -> None:
        """Stop as systemd does."""
        assert self._process is not None
        self._process.send(signal.SIGTERM)
        assert await self._process.ended() == 0


class Reaper:
    """Kills a bot at the moment that a test named, once for each naming. Loopback servers tell it what is happening to them."""

    def __init__(self) -> None:
        self.kill: Callable[[], None] = lambda: None
        self.next_death: str | None = None

    def comes(self, moment: str) -> bool:
        """Whether the bot has just died at this moment."""
        if self.next_death != moment:
            return False
        self.next_death = None
        self.kill()
        return True


class LeapingClock(ScaledClock):
    """Runs ``speed`` times as fast as the machine's clock, and jumps ahead when a test says so: who sleeps until then wakes."""

    def __init__(self, speed: float = 1.0) -> None:
        super().__init__(datetime.now(UTC), speed)
        self._pace, self._ahead, self._leapt = speed, 0.0, asyncio.Event()

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead

    async def sleep(self, seconds: float) -> None:
        end = self.monotonic() + seconds
        while (left := end - self.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leapt.wait(), left / self._pace)

    def leap(self, seconds: float = 5.0) -> None:
        self._ahead += seconds
        leapt, self._leapt = self._leapt, asyncio.Event()
        leapt.set()

    async def elapse(self, seconds: float, step: float = 1.0) -> None:
        """Let ``seconds`` pass in leaps, so that what sleeps again and again within them wakes each time."""
        end = self.monotonic() + seconds
        while self.monotonic() < end:
            self.leap(step)
            for _ in range(6):
                await asyncio.sleep(0)


def system_clock(speed: float = 1.0) -> ScaledClock:
    return ScaledClock(datetime.now(UTC), speed)
