"""``--check`` for Feishu: what the platform's API tells about an app, with a remedy for everything that is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from adapters.checks import Finding
from adapters.feishu.rest import ApiError, Rest
from core.clock import Clock
from core.config import FeishuSection
from core.errors import ConfigError

_CONSOLE = "in the developer console"
_PUBLISH = "then publish a version (版本管理与发布)"

SCOPES = {
    "im:message": "read and send messages",
    "im:message:send_as_bot": "send replies",
    "im:message.group_msg": "receive group messages that do not mention the bot",
    "im:message.group_at_msg:readonly": "receive group messages that mention the bot",
    "im:chat:readonly": "names of groups",
    "contact:user.base:readonly": "names of members",
}
EVENTS = {
    "im.message.receive_v1": "messages",
    "im.message.recalled_v1": "recalled messages",
    "im.chat.member.bot.added_v1": "the bot was added to a group",
    "im.chat.member.bot.deleted_v1": "the bot was removed from a group",
}


@asynccontextmanager
async def _api(config: FeishuSection, clock: Clock) -> AsyncIterator[Rest]:
    rest = Rest(config, clock)
    try:
        yield rest
    finally:
        await rest.close()


async def groups(config: FeishuSection, clock: Clock) -> list[tuple[str, str]]:
    """(chat_id, name) of each group that the bot is in. Raises ConfigError for bad credentials, ApiError when the platform does not tell."""
    async with _api(config, clock) as rest:
        await rest.check_credentials()
        return await _groups(rest)


async def check(config: FeishuSection, clock: Clock) -> list[Finding]:
    """Findings in the order in which an admin cures them; ends early when later ones could not be looked at. Never raises for what the platform says."""
    if not config.app_id or not config.app_secret.get_secret_value():
        return [Finding(False, "credentials: [feishu] app_id or app_secret is missing", f"Copy both from 'Credentials & Basic Info' (凭证与基础信息) {_CONSOLE}.")]
    async with _api(config, clock) as rest:
        try:
            await rest.check_credentials()
        except ConfigError as error:
            return [Finding(False, f"credentials: {error}", f"Copy app_id and app_secret again from {_CONSOLE.removeprefix('in ')}.")]
        except ApiError as error:
            return [Finding(False, f"endpoint: {config.domain} cannot be used: {error}", "Check the network, a proxy, and [feishu] domain.")]
        findings = [Finding(True, "credentials are accepted"), await _bot(rest), *await _scopes(rest), *await _events(rest, config)]
        findings.append(await _connection(rest) if config.mode == "websocket" else _webhook(config))
        findings.append(await _membership(rest))
        return findings


async def _bot(rest: Rest) -> Finding:
    try:
        answer = await rest.call("GET", "/open-apis/bot/v3/info")
    except ApiError as error:
        return Finding(False, f"bot ability: {error}", f"Add the bot ability (添加应用能力 > 机器人) {_CONSOLE}, {_PUBLISH}.")
    return Finding(True, f"bot ability is enabled: {(answer.get('bot') or {}).get('app_name') or 'bot'}")


async def _scopes(rest: Rest) -> list[Finding]:
    try:
        answer = await rest.call("GET", "/open-apis/application/v6/scopes")
    except ApiError as error:
        return [Finding(True, f"scopes cannot be read ({error}): compare {', '.join(SCOPES)} with 'Permissions & Scopes' (权限管理) {_CONSOLE}")]
    listed = (answer.get("data") or {}).get("scopes") or []
    granted = {scope.get("scope_name") for scope in listed if scope.get("grant_status") == 1}
    return [
        Finding(True, f"scope {scope}: {purpose}")
        if scope in granted
        else Finding(False, f"scope {scope} is missing: {purpose}", f"Add it under 'Permissions & Scopes' (权限管理) {_CONSOLE}, {_PUBLISH}.")
        for scope, purpose in SCOPES.items()
    ]


async def _events(rest: Rest, config: FeishuSection) -> list[Finding]:
    try:
        subscribed = await _subscribed_events(rest, config.app_id)
    except ApiError as error:
        return [Finding(True, f"event subscription cannot be read ({error}): compare {', '.join(EVENTS)} with 'Events & Callbacks' (事件与回调) {_CONSOLE}")]
    return [
        Finding(True, f"event {event}: {purpose}")
        if event in subscribed
        else Finding(False, f"event {event} is not subscribed: {purpose}", f"Add it under 'Events & Callbacks' (事件与回调) {_CONSOLE}, {_PUBLISH}.")
        for event, purpose in EVENTS.items()
    ]


async def _subscribed_events(rest: Rest, app_id: str) -> set[str]:
    """Event types of the version that is online; needs a scope that most apps do not have."""
    lang = [("lang", "zh_cn")]
    answer = await rest.call("GET", "/open-apis/application/v6/applications/:app_id", paths={"app_id": app_id}, queries=lang)
    version_id = str((((answer.get("data") or {}).get("app")) or {}).get("online_version_id") or "")
    if not version_id:
        return set()
    paths = {"app_id": app_id, "version_id": version_id}
    answer = await rest.call("GET", "/open-apis/application/v6/applications/:app_id/app_versions/:version_id", paths=paths, queries=lang)
    version: dict[str, Any] = (answer.get("data") or {}).get("app_version") or {}
    return {str(info.get("event_type")) for info in version.get("event_infos") or []} | {str(event) for event in version.get("events") or []}


async def _connection(rest: Rest) -> Finding:
    try:
        await rest.endpoint()
    except ApiError as error:
        return Finding(False, f"long connection: {error}", f"Start the bot once, choose 'long connection' (使用长连接接收事件) under 'Events & Callbacks' {_CONSOLE}, {_PUBLISH}.")
    return Finding(True, "long connection: the endpoint gives an address")


def _webhook(config: FeishuSection) -> Finding:
    if config.encrypt_key.get_secret_value():
        return Finding(True, f"webhook: signed and encrypted requests on {config.listen}{config.path}")
    remedy = f"Set an Encrypt Key under 'Events & Callbacks > Encryption Strategy' (加密策略) {_CONSOLE} and copy it to [feishu] encrypt_key."
    return Finding(False, "webhook: requests are not signed, so replays cannot be told from events", remedy)


async def _membership(rest: Rest) -> Finding:
    try:
        found = await _groups(rest)
    except ApiError as error:
        return Finding(False, f"groups: {error}", f"Grant the scope im:chat:readonly {_CONSOLE}, {_PUBLISH}.")
    if not found:
        return Finding(False, "groups: the bot is in no group", "Open a group's settings > Bots (群机器人) > Add bot.")
    return Finding(True, "groups: " + ", ".join(f"{name or '(no name)'} ({chat_id})" for chat_id, name in found))


async def _groups(rest: Rest) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    page = ""
    while True:
        queries = [("page_size", "100"), *([("page_token", page)] if page else [])]
        data = (await rest.call("GET", "/open-apis/im/v1/chats", queries=queries)).get("data") or {}
        found += [(str(item.get("chat_id") or ""), str(item.get("name") or "")) for item in data.get("items") or []]
        page = str(data.get("page_token") or "")
        if not data.get("has_more") or not page:
            return found
