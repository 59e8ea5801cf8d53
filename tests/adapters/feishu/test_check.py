"""``--check`` and the list of groups against the loopback platform."""

from __future__ import annotations

import threading

import pytest
from pydantic import SecretStr

from adapters.checks import Finding
from adapters.feishu.adapter import FeishuAdapter
from adapters.feishu.check import EVENTS, SCOPES
from core.config import FeishuSection
from core.errors import ConfigError
from tests.adapters.feishu.loopback import Failure, LoopbackFeishu
from tests.adapters.feishu.wires import section


async def findings(config: FeishuSection) -> list[Finding]:
    return await FeishuAdapter(config).check()


def wrong(found: list[Finding]) -> list[str]:
    return [finding.what for finding in found if not finding.ok]


async def test_a_complete_app_has_nothing_missing(feishu: LoopbackFeishu) -> None:
    feishu.scopes, feishu.subscribed = set(SCOPES), set(EVENTS)
    threads = set(threading.enumerate())
    found = await findings(section(feishu))
    assert wrong(found) == []
    assert any("一群 (chat-1)" in finding.what and "二群 (chat-2)" in finding.what for finding in found)
    assert set(threading.enumerate()) <= threads


async def test_everything_that_is_missing_is_named_with_a_remedy(feishu: LoopbackFeishu) -> None:
    feishu.scopes, feishu.subscribed = set(SCOPES) - {"im:message.group_msg"}, set(EVENTS) - {"im.message.recalled_v1"}
    feishu.chats = {}
    feishu.failures = {"/open-apis/bot": [Failure(400, 99991672)], "/callback/ws": [Failure(200, 403)]}
    found = await findings(section(feishu))
    for expected in ("bot ability", "im:message.group_msg", "im.message.recalled_v1", "long connection", "in no group"):
        assert any(expected in what for what in wrong(found)), expected
    assert len(wrong(found)) == 5
    assert all(finding.remedy for finding in found if not finding.ok)


async def test_what_the_api_does_not_tell_is_said_and_is_no_fault(feishu: LoopbackFeishu) -> None:
    feishu.failures["/open-apis/application"] = [Failure(400, 99991672)] * 2
    found = await findings(section(feishu))
    assert wrong(found) == []
    assert sum("cannot be read" in finding.what for finding in found) == 2


async def test_wrong_or_missing_credentials_end_the_check(feishu: LoopbackFeishu) -> None:
    for update in ({"app_secret": SecretStr("wrong")}, {"app_id": "cli_other"}, {"app_id": ""}):
        found = await findings(section(feishu).model_copy(update=update))
        assert len(found) == 1
        assert not found[0].ok
        assert found[0].remedy


async def test_a_platform_that_cannot_be_reached_is_named() -> None:
    found = await findings(FeishuSection(app_id="a", app_secret=SecretStr("b"), domain="http://127.0.0.1:9"))
    assert len(found) == 1
    assert "127.0.0.1:9" in found[0].what


async def test_webhook_without_a_key_is_a_finding(feishu: LoopbackFeishu) -> None:
    feishu.scopes, feishu.subscribed = set(SCOPES), set(EVENTS)
    assert wrong(await findings(section(feishu, mode="webhook", verification_token=SecretStr("t")))) == ["webhook: requests are not signed, so replays cannot be told from events"]
    assert wrong(await findings(section(feishu, mode="webhook", encrypt_key=SecretStr("k")))) == []


async def test_groups_turns_all_pages(feishu: LoopbackFeishu) -> None:
    assert await FeishuAdapter(section(feishu)).groups() == [("chat-1", "一群"), ("chat-2", "二群")]
    with pytest.raises(ConfigError):
        await FeishuAdapter(section(feishu).model_copy(update={"app_secret": SecretStr("wrong")})).groups()
