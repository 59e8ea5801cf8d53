"""Feishu's REST API by the SDK's transport, in threads of its own: no call, no token, no TLS set-up ever runs on the event loop.

The token is ours too: the SDK fetches it synchronously inside its "async" calls, caches it by app id alone and does not renew it when the platform says that it is invalid.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from adapters.feishu import sdk
from core.clock import Clock
from core.config import FeishuSection
from core.errors import ConfigError
from core.retry_after import seconds

T = TypeVar("T")

INVALID_TOKEN_CODES = frozenset({99991661, 99991663, 99991664, 99991668, 99991671})
RATE_LIMIT_CODES = frozenset({99991400, 230020, 11232, 11233})
SERVER_ERROR_CODES = frozenset({1, 2200, 55001, 1000040343, 230049})  # 1: the endpoint of the long connection is busy; 230049: an earlier attempt is still being sent
MISSING_SCOPE_CODES = frozenset({99991672, 99991679})
BAD_CREDENTIAL_CODES = frozenset({10003, 10014, 10015, 514, 1000040344})

_TOKEN_URI = "/open-apis/auth/v3/tenant_access_token/internal"
_ENDPOINT_URI = "/callback/ws/endpoint"
_RENEW_BEFORE_SECONDS = 600.0


class ApiError(Exception):
    """The API refused a call, or could not be reached.

    ``code`` is Feishu's (0 when the answer had none), ``status`` HTTP's (0 when there was no answer); ``retry_after`` in seconds where the platform named a time.
    """

    def __init__(self, what: str, problem: str, *, code: int = 0, status: int = 0, retry_after: float | None = None) -> None:
        self.what, self.problem, self.code, self.status, self.retry_after = what, problem, code, status, retry_after
        super().__init__(f"{what}: {problem} (code {code}, HTTP {status})")

    @property
    def rate_limited(self) -> bool:
        return self.status == 429 or self.code in RATE_LIMIT_CODES

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed later."""
        return self.rate_limited or self.code in SERVER_ERROR_CODES | INVALID_TOKEN_CODES or self.status >= 500 or (self.code == 0 and self.status < 400)

    @property
    def missing_scope(self) -> bool:
        return self.code in MISSING_SCOPE_CODES


class Rest:
    """Calls to one app's API. :meth:`close` ends its threads."""

    def __init__(self, config: FeishuSection, clock: Clock, timeout: float = 10.0, threads: int = 4) -> None:
        """:param timeout: seconds for connecting and for each read of an answer."""
        self._config, self._clock, self._timeout = config, clock, timeout
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="feishu-rest")
        self._running: set[Future[Any]] = set()
        self.closed = False
        self._token = ""
        self._token_until = 0.0
        self._token_lock = asyncio.Lock()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run ``work`` in one of this object's threads. Raises ApiError when the object is closed before ``work`` began."""
        try:
            future = self._threads.submit(work)
        except RuntimeError:
            raise ApiError("call", "the adapter is stopped") from None
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.closed and task is not None and not task.cancelling():  # the work was cancelled, not its caller
                raise ApiError("call", "the adapter is stopped") from None
            raise

    async def call(self, method: str, uri: str, *, paths: Mapping[str, str] | None = None, queries: Sequence[tuple[str, str]] = (), body: object = None) -> dict[str, Any]:
        """The whole JSON answer of a call with the app's token, which is renewed once when it is refused.

        :raises ApiError: when the answer's code is not 0, is no JSON, or does not come.
        """
        token = await self.token()
        try:
            return await self._in_thread_call(method, uri, paths, queries, body, token)
        except ApiError as error:
            if error.code not in INVALID_TOKEN_CODES:
                raise
        token = await self.token(refused=token)
        return await self._in_thread_call(method, uri, paths, queries, body, token)

    async def token(self, refused: str = "") -> str:
        """The tenant access token, fetched when there is none, it is about to expire, or it is the one that the platform ``refused``."""
        async with self._token_lock:
            if not self._token or self._token == refused or self._clock.monotonic() >= self._token_until:
                body = {"app_id": self._config.app_id, "app_secret": self._config.app_secret.get_secret_value()}
                answer = await self._in_thread_call("POST", _TOKEN_URI, None, (), body, None)
                lifetime = float(answer.get("expire") or 7200)
                self._token = str(answer.get("tenant_access_token") or "")
                self._token_until = self._clock.monotonic() + max(lifetime - _RENEW_BEFORE_SECONDS, lifetime / 2)
            return self._token

    async def check_credentials(self) -> None:
        """Fetch the token ahead of its first use. Raises ConfigError when the platform does not know the app or its secret; ApiError when it cannot be asked."""
        try:
            await self.token()
        except ApiError as error:
            if error.code in BAD_CREDENTIAL_CODES:
                raise bad_credentials(error) from error
            raise

    async def endpoint(self) -> tuple[str, dict[str, Any]]:
        """Address of the long connection (it contains a ticket: a secret) and the server's settings for it (``PingInterval``, ``ReconnectNonce``, ... in seconds)."""
        body = {"AppID": self._config.app_id, "AppSecret": self._config.app_secret.get_secret_value()}
        answer = await self._in_thread_call("POST", _ENDPOINT_URI, None, (), body, None)
        data = answer.get("data") or {}
        if not data.get("URL"):
            raise ApiError(_ENDPOINT_URI, "the answer has no URL", status=502)
        return str(data["URL"]), dict(data.get("ClientConfig") or {})

    async def close(self) -> None:
        """Wait for the calls that are under way (each has a time-out) and end the threads. Idempotent."""
        self.closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        running = [asyncio.wrap_future(future) for future in self._running.copy() if not future.cancelled()]
        if running:
            await asyncio.wait(running, timeout=2 * self._timeout)
            for future in running:
                if future.done() and not future.cancelled():
                    future.exception()  # its caller is gone
        if not self._running:
            self._threads.shutdown(wait=True)  # idle threads end at once

    async def _in_thread_call(self, method: str, uri: str, paths: Mapping[str, str] | None, queries: Sequence[tuple[str, str]], body: object, token: str | None) -> dict[str, Any]:
        return await self.in_thread(lambda: self._execute(method, uri, dict(paths or {}), list(queries), body, token))

    def _execute(self, method: str, uri: str, paths: dict[str, str], queries: list[tuple[str, str]], body: object, token: str | None) -> dict[str, Any]:
        import requests  # the SDK's own HTTP library

        lark = sdk.load()
        settings, request, option = lark.model.Config(), lark.model.BaseRequest(), lark.model.RequestOption()
        settings.domain, settings.timeout = self._config.domain.rstrip("/"), self._timeout
        request.http_method, request.uri, request.paths, request.queries, request.body = lark.core.HttpMethod[method], uri, paths, queries, body
        if body is not None:
            request.headers["Content-Type"] = "application/json; charset=utf-8"
        if token is not None:
            request.token_types = {lark.core.AccessTokenType.TENANT}
            option.tenant_access_token = token
        try:
            response = lark.http.Transport.execute(settings, request, option)
        except requests.RequestException as error:
            raise ApiError(uri, f"not reachable: {type(error).__name__}") from None
        return _answer(uri, response.status_code, response.headers, response.content)


def bad_credentials(error: ApiError) -> ConfigError:
    return ConfigError(
        "feishu",
        "app_secret",
        None,
        f"the platform does not accept app_id and app_secret ({error.problem}, code {error.code})",
        "Copy both from the app's page 'Credentials & Basic Info' (凭证与基础信息) in the developer console; check [feishu] domain (Lark: https://open.larksuite.com).",
    )


def _answer(uri: str, status: int, headers: Mapping[str, str], content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
        code = int(answer.get("code") or 0)
    except (ValueError, AttributeError, TypeError):
        raise ApiError(uri, "the answer is not JSON", status=status, retry_after=_retry_after(headers)) from None
    if code != 0 or status >= 400:
        raise ApiError(uri, str(answer.get("msg") or "no reason given")[:200], code=code, status=status, retry_after=_retry_after(headers))
    return dict(answer)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    lowered = {name.lower(): value for name, value in headers.items()}
    for name in ("retry-after", "x-ogw-ratelimit-reset"):
        if (wait := seconds(lowered.get(name))) is not None:
            return wait
    return None
