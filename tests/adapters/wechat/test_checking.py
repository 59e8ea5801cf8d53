"""``--check`` of ``[wechat]``: what is missing, and how to get it."""

from __future__ import annotations

import socket

import pytest
from grpclib.const import Status

from adapters.wechat import check
from core.config import WechatSection
from tests.adapters.manual_clock import ManualClock
from tests.adapters.wechat.loopback_puppet import BOT, LoopbackPuppet
from tests.adapters.wechat.test_conformance import WkteamWire


async def problems(config: WechatSection) -> list[str]:
    findings = await check(config)
    assert all(finding.ok or finding.remedy for finding in findings)
    return [finding.what for finding in findings if not finding.ok]


class TestWechaty:
    async def test_all_is_well_and_the_running_bot_is_not_disturbed(self) -> None:
        async with LoopbackPuppet() as server:
            assert await problems(WechatSection(endpoint=server.endpoint, token="t")) == []
            assert (server.calls["Start"], server.calls["Stop"]) == (0, 0)

    async def test_no_endpoint(self) -> None:
        assert await problems(WechatSection()) == ["[wechat] endpoint is not host:port"]

    async def test_nothing_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        assert "cannot connect" in (await problems(WechatSection(endpoint=f"127.0.0.1:{port}")))[0]

    @pytest.mark.parametrize(
        ("call", "status", "what"),
        [("Version", Status.UNAUTHENTICATED, "does not accept the token"), ("Version", Status.UNAVAILABLE, "no puppet service"), ("RoomList", Status.INTERNAL, "cannot be listed")],
    )
    async def test_what_the_service_refuses(self, call: str, status: Status, what: str) -> None:
        async with LoopbackPuppet() as server:
            server.fail(call, status)
            assert what in (await problems(WechatSection(endpoint=server.endpoint)))[0]

    async def test_account_in_no_group(self) -> None:
        async with LoopbackPuppet() as server:
            server.topics = {}
            assert await problems(WechatSection(endpoint=server.endpoint)) == ["the account is in no group"]


class TestCallbacks:
    async def test_android(self) -> None:
        assert await problems(WechatSection(provider="android", listen="127.0.0.1:0", secret="s", wcid="豆解")) == []
        missing = await problems(WechatSection(provider="android", listen="nonsense"))
        assert missing[:2] == ["[wechat] secret is empty", "[wechat] listen is not host:port"]
        assert missing[2].startswith("[wechat] wcid is empty")

    @pytest.mark.parametrize(("host", "alone"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
    async def test_an_address_that_no_phone_reaches_is_told(self, host: str, alone: bool) -> None:
        findings = await check(WechatSection(provider="android", listen=f"{host}:0", secret="s", wcid="豆解"))
        assert any("this machine alone" in finding.what for finding in findings) == alone

    async def test_port_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as used:
            listen = f"127.0.0.1:{used.getsockname()[1]}"
            assert "cannot listen" in (await problems(WechatSection(provider="android", listen=listen, secret="s")))[0]

    async def test_wkteam(self) -> None:
        wire = WkteamWire(ManualClock())
        await wire.start()
        base = WechatSection(provider="wkteam", listen="127.0.0.1:0", secret="s", endpoint=wire.base, token="auth", wcid=BOT)
        try:
            assert await problems(base) == []
            assert await problems(base.model_copy(update={"wcid": "wxid_other"})) == ["the bot's WeChat account is not logged in at wkteam"]
            assert "as it should" in (await problems(WechatSection(provider="wkteam", listen="127.0.0.1:0", secret="s", endpoint=wire.base, token="bad", wcid=BOT)))[0]
            assert len(await problems(base.model_copy(update={"endpoint": "", "wcid": ""}))) == 2
            assert "HTTP address" in (await problems(base.model_copy(update={"endpoint": "ftp://x"})))[0]
        finally:
            await wire.close()
