"""What the tests of living bots share: the two platforms on the loopback under one form, an answer service, a config file, and a bot inside or outside of the test's process."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self

from aiohttp import web

from bots.live import live
from bots.replay import ScaledClock
from core.config import load_config
from tests.adapters.feishu.loopback import APP_ID, APP_SECRET, LoopbackFeishu
from tests.adapters.feishu.payloads import text_event
from tests.adapters.manual_clock import eventually
from tests.adapters.wechat.loopback_puppet import LoopbackPuppet, pb
from tests.bots.live_bot import ANTECEDENT, PRONOUN, rule_models

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
"""Real seconds for what takes a few on an idle machine: others may hold the processors."""


_MENTION = re.compile(r'^<at user_id="[^"]*"></at> ')


class LoopbackAnswers:
    """An OpenAI-compatible service that answers each question with itself."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._answer)
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
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": f"答：{question}"}}]})


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
        return [text for _, text, _ in self.server.sent]


def write_config(directory: Path, *, feishu: LoopbackFeishu | None = None, puppet: LoopbackPuppet | None = None, answers: LoopbackAnswers | None = None, web_port: int = 0) -> Path:
    """A config file for the servers that are given, with a database beside it. Windows are short, and limits of replies far away."""
    sections = {
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
        "web": {"port": web_port},
        "answer": {"base_url": answers.url, "model": "echo"} if answers else {},
        "feishu": {"app_id": APP_ID, "app_secret": APP_SECRET, "domain": feishu.domain} if feishu else {},
        "wechat": {"provider": "wechaty", "endpoint": puppet.endpoint, "token": "token-of-the-puppet"} if puppet else {},
    }
    path = directory / "config.ini"
    path.write_text("\n".join(f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in pairs.items()) for name, pairs in sections.items() if pairs), encoding="utf-8")
    return path


def line(index: int) -> tuple[str, str]:
    """(sender, text) of the ``index``-th message of a conversation: each tenth is a question of somebody who says nothing else."""
    return (f"asker-{index}", f"第 {index} 个问题：{PRONOUN}怎么部署到 TX2？") if index % 10 == 5 else (f"member-{index % 7}", f"第 {index} 句，随便聊聊")


async def talk(wire: Wire, indices: Iterable[int]) -> None:
    for index in indices:
        sender, text = line(index)
        await wire.say(f"m{index}", text, sender)


def answers_to(count: int) -> list[str]:
    """What the bot says in a conversation of ``count`` lines, sorted."""
    return sorted(f"答：{text.replace(PRONOUN, ANTECEDENT)}" for _, text in map(line, range(count)) if PRONOUN in text)


def rows(config: Path, sql: str) -> list[tuple[Any, ...]]:
    """What the database holds now; none before it exists."""
    with closing(sqlite3.connect(f"file:{config.with_name('bot.db')}?mode=ro", uri=True, timeout=10.0)) as connection:
        return connection.execute(sql).fetchall()


def stored(config: Path, platform: str) -> list[str]:
    """Ids of the stored messages of a platform, as often as they are stored."""
    try:
        return [row[0] for row in rows(config, f"SELECT message_id FROM messages WHERE platform = '{platform}'")]
    except sqlite3.OperationalError:
        return []


def database_bytes(config: Path) -> bytes:
    """All that stands in the files of the database."""
    return b"".join(path.read_bytes() for path in sorted(config.parent.glob("bot.db*")))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def living(config: Path, platforms: Sequence[str], clock: ScaledClock) -> AsyncIterator[Callable[[Callable[[], object]], Any]]:
    """A bot in this process, with the rules of :mod:`tests.bots.live_bot` as models. Gives ``until(condition)``, which fails at once when the bot ends."""
    stop = asyncio.Event()
    bot = asyncio.create_task(live(load_config(config, {}), platforms, stop, clock, rule_models()))

    async def until(condition: Callable[[], object]) -> None:
        await eventually(lambda: bot.done() or condition(), PATIENCE)
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

    def __init__(self, program: asyncio.subprocess.Process) -> None:
        self._program, self._pid = program, 0
        self.kills = self._starts = 0

    @classmethod
    @asynccontextmanager
    async def of(cls, config: Path, platform: str) -> AsyncIterator[MortalBot]:
        command = [sys.executable, "-m", "tests.bots.live_bot", str(config), platform]
        program = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        bot = cls(program)
        try:
            await bot.start()
            yield bot
        finally:
            if bot.alive:
                os.kill(bot._pid, signal.SIGKILL)
            assert program.stdin is not None
            program.stdin.close()
            await asyncio.wait_for(program.wait(), PATIENCE)

    async def start(self) -> None:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(f"{self._starts * self.LATER}\n".encode())
        self._pid = int(await asyncio.wait_for(self._program.stdout.readline(), PATIENCE))
        self._starts += 1

    @property
    def alive(self) -> bool:
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """kill -9, now."""
        os.kill(self._pid, signal.SIGKILL)
        self.kills += 1

    async def restart_after(self, kills: int) -> None:
        """Wait until the bot was killed for the ``kills``-th time, and start it again."""
        await eventually(lambda: self.kills == kills and not self.alive, PATIENCE)
        await self.start()

    async def finish(self) -> None:
        """Stop as systemd does."""
        os.kill(self._pid, signal.SIGTERM)
        await eventually(lambda: not self.alive, PATIENCE)


def system_clock(speed: float = 1.0) -> ScaledClock:
    return ScaledClock(datetime.now(UTC), speed)
