"""wkteam's HTTP API: POST with the account's Authorization, answers ``{"code": "1000", "message", "data"}``."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from adapters.wechat.under_way import UnderWay
from core.config import WechatSection
from core.errors import ConfigError
from core.retry_after import seconds

_SUCCESS = "1000"
_UNSENT_SECONDS = 5.0  # what did not get as far as wkteam may be tried again after so long: it is not in doubt
_RATE_LIMIT_SECONDS = 30.0  # where wkteam names no time


class WkteamError(Exception):
    """A call failed. ``permanent``: the same call will fail again; ``refused``: the account's Authorization is not accepted; ``retry_after`` in seconds."""

    def __init__(self, problem: str, *, permanent: bool = False, refused: bool = False, retry_after: float | None = None) -> None:
        self.problem, self.permanent, self.refused, self.retry_after = problem, permanent, refused, retry_after
        super().__init__(problem)


class WkteamApi:
    """The calls we need. ``deadline`` in seconds a call. All calls raise :class:`WkteamError`."""

    def __init__(self, config: WechatSection, deadline: float = 10.0) -> None:
        self._base, self._token, self._wcid = base_url(config), config.token.get_secret_value(), config.wcid
        self._deadline = deadline
        self._session: aiohttp.ClientSession | None = None
        self._instance = ""
        self._sending = UnderWay()

    async def close(self) -> None:
        """Idempotent. What is being sent keeps its deadline: a reply that is cut off is said again although the group saw it."""
        await self._sending.wait()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def learn_instance(self, instance: str) -> None:
        """``wId`` of a call-back: the login it came from."""
        self._instance = instance or self._instance

    async def instance(self, *, refresh: bool = False) -> str:
        """``wId`` of the bot's login. Changes with each login of the account."""
        if not self._instance or refresh:
            try:
                logins = await self.online()
            except WkteamError as error:
                unsent = None if error.permanent else error.retry_after or _UNSENT_SECONDS
                raise WkteamError(error.problem, permanent=error.permanent, refused=error.refused, retry_after=unsent) from error
            found = [wid for wcid, wid in logins if not self._wcid or wcid == self._wcid]
            if not found:
                raise WkteamError("the WeChat account is not logged in at wkteam", retry_after=60.0)
            self._instance = found[0]
        return self._instance

    async def online(self) -> list[tuple[str, str]]:
        """(wcId, wId) of the WeChat accounts that are logged in."""
        data = await self._post("queryLoginWx", {})
        return [(str(item.get("wcId") or ""), str(item.get("wId") or "")) for item in _objects(data)]

    async def send_text(self, group: str, text: str, mentions: tuple[str, ...] = ()) -> dict[str, Any]:
        """Send; the answer holds ``msgId``, ``newMsgId``, ``createTime``, which a recall needs."""
        body = {"wcId": group, "content": text} | ({"at": ",".join(mentions)} if mentions else {})
        return next(iter(_objects(await self._sending.run(self._post_as_bot("sendText", body)))), {})

    async def recall(self, group: str, sent: dict[str, Any]) -> None:
        """Take back what :meth:`send_text` answered with ``sent``."""
        await self._post_as_bot("revokeMsg", {"wcId": group} | {key: sent.get(key) for key in ("msgId", "newMsgId", "createTime")})

    async def name(self, wcid: str) -> str:
        """Name of a group or contact."""
        return _nick_name(await self._post_as_bot("getContact", {"wcId": wcid}))

    async def member_name(self, group: str, wcid: str) -> str:
        return _nick_name(await self._post_as_bot("getChatRoomMemberInfo", {"chatRoomId": group, "userList": wcid}))

    async def _post_as_bot(self, path: str, body: dict[str, Any]) -> Any:
        known = await self.instance()
        try:
            return await self._post(path, {"wId": known} | body)
        except WkteamError as error:
            # A new login has a new wId: the old one fails like any bad value.
            if not error.permanent or error.refused or await self.instance(refresh=True) == known:
                raise
        return await self._post(path, {"wId": self._instance} | body)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        if not self._base:
            raise WkteamError("[wechat] endpoint is empty", permanent=True)
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._deadline / 2))
        try:
            async with asyncio.timeout(self._deadline), self._session.post(f"{self._base}/{path}", json=body, headers={"Authorization": self._token}) as response:
                status, answer = response.status, await response.json(content_type=None)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise WkteamError(f"{path}: no connection ({type(error).__name__})", retry_after=_UNSENT_SECONDS) from error
        except TimeoutError as error:
            raise WkteamError(f"{path}: no answer within {self._deadline:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise WkteamError(f"{path}: {type(error).__name__}") from error
        except ValueError as error:
            raise WkteamError(f"{path}: the answer is not JSON") from error
        return _checked(path, status, answer, seconds(response.headers.get("Retry-After")))


def base_url(config: WechatSection) -> str:
    """The API's base without a slash at its end, "" when none is configured. Raises ConfigError."""
    base = config.endpoint.strip().rstrip("/")
    if base and "://" not in base:
        base = f"http://{base}"
    if base and not base.startswith(("http://", "https://")):
        raise ConfigError("wechat", "endpoint", config.endpoint, "is not an HTTP address", "Give the address of wkteam's API, for example http://HOST:9899.")
    return base


def _checked(path: str, status: int, answer: Any, retry_after: float | None) -> Any:
    if status in (401, 403):
        raise WkteamError(f"{path}: HTTP {status}", permanent=True, refused=True)
    if status == 429:
        raise WkteamError(f"{path}: HTTP 429", retry_after=_RATE_LIMIT_SECONDS if retry_after is None else retry_after)
    if status >= 500:
        raise WkteamError(f"{path}: HTTP {status}")
    if status != 200 or not isinstance(answer, dict):
        raise WkteamError(f"{path}: HTTP {status}", permanent=True)
    if str(answer.get("code")) != _SUCCESS:
        raise WkteamError(f"{path}: code {answer.get('code')}", permanent=True)
    return answer.get("data")


def _objects(data: Any) -> list[dict[str, Any]]:
    """``data`` is an object, a list of objects or null."""
    return [item for item in (data if isinstance(data, list) else [data]) if isinstance(item, dict)]


def _nick_name(data: Any) -> str:
    return next((str(item.get("nickName") or "") for item in _objects(data)), "")
