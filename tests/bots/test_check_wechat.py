"""``--check`` and ``--groups`` of the WeChat bot: what an admin reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpclib.const import Status

from bots import checks
from core.config import Config, load_config
from core.messages import Message
from storage.engine import open_database
from storage.inbox import SqlInbox
from tests.adapters.wechat.loopback_puppet import LoopbackPuppet
from tests.bots.live_wires import system_clock, write_config

PHONE = {"provider": "android", "listen": "127.0.0.1:0", "secret": "a-long-secret", "wcid": "豆解"}


async def printed(config: Config, capsys: pytest.CaptureFixture[str], *, only_groups: bool = False) -> tuple[int, list[str]]:
    code = await (checks.groups if only_groups else checks.check)(config, ["wechat"])
    return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith(("FAIL", "group", "note"))]


async def test_a_bot_that_can_live_and_the_groups_of_its_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with LoopbackPuppet() as puppet:
        config = load_config(write_config(tmp_path, puppet=puppet), {})
        groups = ["group wechat: collected     chat-1  部署交流群", "group wechat: not collected chat-2  第二群"]
        assert await printed(config, capsys) == (0, groups)
        assert await printed(config, capsys, only_groups=True) == (0, groups)


async def test_what_is_missing_is_told_with_its_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with LoopbackPuppet() as puppet:
        config = load_config(write_config(tmp_path, puppet=puppet), {})
        puppet.fail("Version", Status.UNAUTHENTICATED)
        code, (line,) = await printed(config, capsys)
    assert code == 2
    assert line.startswith("FAIL  wechat: the puppet service does not accept the token")
    assert "Get a valid [wechat] token" in line


async def test_groups_of_a_provider_that_lists_none_are_those_of_which_something_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(write_config(tmp_path, extra={"wechat": PHONE}), {})
    code, lines = await printed(config, capsys, only_groups=True)
    assert (code, len(lines)) == (0, 1)
    assert "Start the bot and write to a group" in lines[0]
    database = await open_database(config.storage.url)
    places = (("wechat", "chat-1"), ("wechat", "茴香豆"), ("feishu", "oc_1"))
    await SqlInbox(database).add([Message(platform, chat, "m1", "白露", "你好", system_clock().now(), chat_name=chat) for platform, chat in places])
    await database.close()
    assert await printed(config, capsys) == (0, ["group wechat: collected     chat-1  chat-1", "group wechat: not collected 茴香豆  茴香豆"])
