"""The pages of a running bot: behind a token that no log shows."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import structlog

from bots.live import live
from core.config import Config, load_config
from core.logs import configure_logs, secrets_of
from tests.bots.live_bot import rule_models


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config_of(path: Path, token: str = "") -> Config:
    wechat = {"provider": "android", "listen": f"127.0.0.1:{free_port()}", "secret": "s" * 24}
    return load_config(None, {}, storage={"url": f"sqlite:///{path / 'd.db'}"}, wechat=wechat, web={"port": free_port(), "token": token})


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[str]:
    """Address of the pages of a bot that has started."""
    stop = asyncio.Event()
    bot = asyncio.create_task(live(config, ["wechat"], stop, models=rule_models()))
    address = f"http://127.0.0.1:{config.web.port}"
    async with aiohttp.ClientSession() as session:
        while not bot.done():
            try:
                async with session.get(f"{address}/readyz") as response:
                    if response.status == 200:
                        break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)
    try:
        yield address
    finally:
        stop.set()
        await bot


async def statuses(address: str, token: str) -> dict[str, int]:
    found = {}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        for path in ("/healthz", "/metrics", "/dashboard", f"/?token={token}", "/label"):
            async with session.get(address + path) as response:
                found[path.partition("?")[0]] = response.status
                if "?" in path and response.status == 200:
                    assert "wechat" in await response.text()  # the bot's adapter, under health
    return found


async def test_a_chosen_token_opens_them_and_is_not_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, logs = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    config = config_of(tmp_path, "chosen-token-of-the-admin")
    configure_logs("info", "json", secrets_of(config), logs)
    async with running(config) as address:
        assert await statuses(address, "chosen-token-of-the-admin") == {"/healthz": 200, "/metrics": 200, "/dashboard": 403, "/": 200, "/label": 200}
    assert terminal.getvalue() == ""
    assert "chosen-token" not in logs.getvalue()


async def test_without_one_a_new_token_is_shown_once_to_a_terminal_and_never_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, logs = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    configure_logs("debug", "json", (), logs)
    async with running(config_of(tmp_path)) as address:
        tokens = re.findall(r"\?token=(\S+)", terminal.getvalue())
        assert len(tokens) == 1
        assert (await statuses(address, tokens[0]))["/"] == 200
        assert (await statuses(address, ""))["/"] == 403
    assert tokens[0] not in logs.getvalue()


async def test_where_there_is_no_terminal_the_log_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, logs = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    configure_logs("info", "json", (), logs)
    async with running(config_of(tmp_path)):
        pass
    assert printed.getvalue() == ""
    assert "[web] token is empty" in logs.getvalue()
    assert "?token=" not in logs.getvalue()
