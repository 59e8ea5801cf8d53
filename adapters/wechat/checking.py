"""What ``--check`` finds out about ``[wechat]`` without disturbing a bot that runs."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from adapters.checks import Finding
from adapters.wechat.callbacks import listen_address
from adapters.wechat.puppet import Deadlines, PuppetClient, PuppetError, endpoint_of
from adapters.wechat.wkteam_api import WkteamApi, WkteamError
from core.config import WechatSection
from core.errors import ConfigError


async def check(config: WechatSection) -> list[Finding]:
    """All findings for the chosen provider, the first cause first."""
    if config.provider == "wechaty":
        return await _check_puppet(config)
    findings = _check_callbacks(config)
    return findings + (await _check_wkteam(config) if config.provider == "wkteam" else _check_phone(config))


async def _check_puppet(config: WechatSection) -> list[Finding]:
    try:
        host, port = endpoint_of(config)
    except ConfigError as error:
        return [Finding(False, f"[wechat] endpoint {error.problem}", error.remedy)]
    findings = [Finding(True, "[wechat] token is set" if config.token.get_secret_value() else "[wechat] token is empty: right only for a service that asks for none")]
    client = PuppetClient(host, port, config.token.get_secret_value(), Deadlines(5.0, 5.0))
    try:
        try:
            await client.connect(start=False)
        except PuppetError as error:
            return [*findings, Finding(False, error.problem, "Start the puppet service, and check [wechat] endpoint and the firewall.")]
        findings.append(await _check_service(client))
        if findings[-1].ok:
            findings.append(await _check_login(client))
    finally:
        await client.close()
    return findings


async def _check_service(client: PuppetClient) -> Finding:
    try:
        return Finding(True, f"puppet service answers (version {await client.version()})")
    except PuppetError as error:
        if error.unauthenticated:
            return Finding(False, f"the puppet service does not accept the token ({error.problem})", "Get a valid [wechat] token from its provider.")
        if error.permanent:
            return Finding(True, "puppet service answers")
        return Finding(False, f"no puppet service answers there ({error.problem})", "Check that [wechat] endpoint is the gRPC port of the puppet service.")


async def _check_login(client: PuppetClient) -> Finding:
    try:
        rooms = await client.room_ids()
    except PuppetError as error:
        return Finding(False, f"the account's groups cannot be listed ({error.problem})", "Start the bot and scan the QR code that it shows.")
    if not rooms:
        return Finding(False, "the account is in no group", "Log in by scanning the QR code at the start of the bot, and add the account to a group.")
    return Finding(True, f"logged in, {len(rooms)} groups")


def _check_callbacks(config: WechatSection) -> list[Finding]:
    findings = []
    if config.secret.get_secret_value():
        findings.append(Finding(True, "[wechat] secret is set"))
    else:
        findings.append(Finding(False, "[wechat] secret is empty", "Choose a long random word and put it into the gateway's URL: http://HOST:PORT/SECRET."))
    try:
        host, port = listen_address(config)
        with socket.create_server((host, port), reuse_port=False):
            alone = " (reachable from this machine alone: a phone or a gateway elsewhere needs another address, or a proxy)" if _is_local(host) else ""
            findings.append(Finding(True, f"can listen on {config.listen}{alone}"))
    except ConfigError as error:
        findings.append(Finding(False, f"[wechat] listen {error.problem}", error.remedy))
    except OSError as error:
        remedy = "Choose another [wechat] listen, or end what uses it (a bot that runs already?)."
        findings.append(Finding(False, f"cannot listen on {config.listen}: {error.strerror or error}", remedy))
    return findings


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_phone(config: WechatSection) -> list[Finding]:
    """What the app needs; what it sends cannot be tried from here."""
    if config.wcid:
        own = Finding(True, f"[wechat] wcid: lines of {config.wcid} are the bot's own")
    else:
        own = Finding(False, "[wechat] wcid is empty: short replies of the bot would be taken for a member's words", "Set it to the name of the phone's account in its groups.")
    return [own, Finding(True, "the id of a group in [bot] groups is its name as WeChat shows it, without the number of its members")]


async def _check_wkteam(config: WechatSection) -> list[Finding]:
    findings = []
    if not config.wcid:
        findings.append(Finding(False, "[wechat] wcid is empty", "Set the WeChat id (wxid_...) of the bot's account, so that its own messages are known."))
    if not config.endpoint:
        return [*findings, Finding(False, "[wechat] endpoint is empty: the bot can listen but not reply", "Set the address of wkteam's API, for example http://HOST:9899.")]
    try:
        api = WkteamApi(config, 5.0)
    except ConfigError as error:
        return [*findings, Finding(False, f"[wechat] endpoint {error.problem}", error.remedy)]
    try:
        logins = [wcid for wcid, _ in await api.online()]
    except WkteamError as error:
        remedy = "Set [wechat] token to the Authorization that wkteam's login call returns." if error.permanent else "Check [wechat] endpoint and the network."
        return [*findings, Finding(False, f"wkteam does not answer as it should ({error.problem})", remedy)]
    finally:
        await api.close()
    if config.wcid and config.wcid not in logins:
        return [*findings, Finding(False, "the bot's WeChat account is not logged in at wkteam", "Log in there by QR code (iPadLogin).")]
    return [*findings, Finding(True, f"wkteam answers, {len(logins)} accounts are logged in")]
