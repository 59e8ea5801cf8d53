"""What a living bot writes into its log at level info, when all goes well and when nothing does: no words of members, no secrets."""

from __future__ import annotations

import asyncio
import io
import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
import structlog
from grpclib.const import Status

from core.config import load_config
from core.logs import configure_logs, secrets_of
from tests.adapters.feishu.loopback import LoopbackFeishu
from tests.bots.live_wires import FeishuWire, LeapingClock, LoopbackAnswers, ResyncingPuppet, WechatWire, Wire, free_port, living, stored, write_config
from tests.bots.warm import PATIENCE

WORD = "蓝鲸"
SECRETS = {"bot": {}, "answer": {"api_key": "answer-key-4711"}, "web": {"token": "pages-token-4711"}}
GATEWAY_SECRET = "a-secret-in-a-path"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged, also by libraries."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = list(root.handlers), root.level
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@asynccontextmanager
async def without_messages(config: Path) -> AsyncIterator[None]:
    """A database that cannot take messages for a while."""

    def rename(old: str, new: str) -> None:
        with closing(sqlite3.connect(config.with_name("bot.db"), timeout=PATIENCE)) as connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    await asyncio.to_thread(rename, "messages", "gone")
    yield
    await asyncio.to_thread(rename, "gone", "messages")


@asynccontextmanager
async def wire_of(platform: str, path: Path, clock: LeapingClock, answers: LoopbackAnswers) -> AsyncIterator[tuple[Wire, Path, ResyncingPuppet | LoopbackFeishu]]:
    if platform == "wechat":
        async with ResyncingPuppet() as puppet:
            yield WechatWire(puppet, clock.now), write_config(path, puppet=puppet, answers=answers, extra=SECRETS), puppet
    else:
        async with LoopbackFeishu() as feishu:
            yield FeishuWire(feishu, clock.now), write_config(path, feishu=feishu, answers=answers, extra=SECRETS), feishu


@pytest.mark.parametrize("platform", ["wechat", "feishu"])
async def test_no_words_and_no_secrets_whatever_fails(platform: str, tmp_path: Path, log: io.StringIO) -> None:
    clock = LeapingClock(5.0)
    async with LoopbackAnswers() as answers, wire_of(platform, tmp_path, clock, answers) as (wire, config, server):
        settings = load_config(config, {})
        configure_logs("info", "json", secrets_of(settings), log)
        async with living(config, [platform], clock) as until:
            if isinstance(server, ResyncingPuppet):
                server.fail("MessageSendText", Status.INTERNAL, Status.RESOURCE_EXHAUSTED)
            await wire.say("m1", f"{WORD}是什么？", "asker-4712")
            await until(lambda: len(wire.shown()) == 1, tick=clock.leap)
            await wire.say("m2", f"/dj {WORD}", "asker-4712")
            await wire.say("m3", f"别的群里的{WORD}", "bob", "chat-2")
            if isinstance(server, ResyncingPuppet):
                server.fail("MessagePayload", Status.UNAVAILABLE)
                server.fail("ContactPayload", Status.INTERNAL)
                server.event(2, f'{{"messageId": "{WORD}')
            await wire.say("m4", f"它是{WORD}吗？", "carol")
            await until(lambda: len(wire.shown()) == 3, tick=clock.leap)
            async with without_messages(config):
                await wire.say("m5", f"存不下的{WORD}", "dora")
                await until(lambda: "not_stored" in log.getvalue())
            if isinstance(server, ResyncingPuppet):
                server.drop()
                await until(lambda: "m5" in stored(config, platform), tick=clock.leap)
    told = log.getvalue()
    assert "adapter_started" in told
    assert WORD not in told
    for secret in ("answer-key-4711", "pages-token-4711", "token-of-the-puppet", settings.feishu.app_secret.get_secret_value() or "token-of-the-puppet"):
        assert secret not in told


@pytest.mark.parametrize("provider", ["android", "wkteam"])
async def test_neither_from_what_the_gateways_call_nor_from_the_path_they_call(provider: str, tmp_path: Path, log: io.StringIO) -> None:
    port = free_port()
    section = {"provider": provider, "listen": f"127.0.0.1:{port}", "secret": GATEWAY_SECRET, "wcid": "wxid_bot", "token": "auth-4711-auth", "endpoint": "http://127.0.0.1:9"}
    config = write_config(tmp_path, extra={"wechat": section})
    configure_logs("info", "json", secrets_of(load_config(config, {})), log)
    good: dict[str, object] = {"query_id": "q", "groupname": "chat-1", "username": WORD, "query": {"type": "text", "content": f"{WORD}？"}}
    if provider == "wkteam":
        data = {"fromGroup": "chat-1", "fromUser": "wxid_a", "content": f"{WORD}？", "newMsgId": 7, "timestamp": 1772442000}
        good = {"messageType": "80001", "wcId": "wxid_bot", "data": data}
    async with living(config, ["wechat"], LeapingClock(5.0)) as until, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as gateway:
        await until(lambda: "adapter_started" in log.getvalue())

        async def post(path: str, **body: object) -> int:
            async with gateway.post(path, **body) as response:
                return response.status

        assert await post(f"/{GATEWAY_SECRET}", json=good) == 200
        assert await post(f"/{GATEWAY_SECRET}", json={"query": {"type": WORD}, "content": WORD}) == 400
        assert await post(f"/{GATEWAY_SECRET}", data=WORD.encode()) == 400
        assert await post(f"/{GATEWAY_SECRET}/{WORD}", data=b"{" + WORD.encode()) == 400
        assert await post(f"/{WORD}", json=good) == 401
        async with without_messages(config):
            assert await post(f"/{GATEWAY_SECRET}", json=good) == 500
    told = log.getvalue()
    assert "callback_failed" in told
    assert WORD not in told
    assert GATEWAY_SECRET not in told
    assert "auth-4711-auth" not in told
