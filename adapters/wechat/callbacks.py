"""The HTTP server that gateways call: POST with a JSON object, a secret as bearer token or as a part of the path, a limit for the body."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from aiohttp import web

from adapters.wechat.delivery import cancel, first_of
from core.clock import Clock
from core.config import WechatSection
from core.errors import ConfigError

log = structlog.get_logger(__name__)

Respond = Callable[[object], Awaitable[None]]
"""Writes the 200 with a JSON body. Raises ConnectionError when the gateway has hung up."""
Answer = Callable[[dict[str, Any], Respond], Coroutine[Any, Any, None]]

_BODY_SECONDS = 30.0
_DRAIN_SECONDS = 5.0


class CallbackServer:
    """Serves ``answer``, which responds when it is done with a call-back. When it raises before that, the gateway gets 500 and may push again.

    Paths: any; existing installations keep theirs. The secret may stand in ``Authorization: Bearer ...`` or as one part of the path, for gateways that know only a URL.
    """

    def __init__(self, config: WechatSection, answer: Answer, clock: Clock) -> None:
        self._config, self._answer, self._clock = config, answer, clock
        self._runner: web.AppRunner | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closing = False

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port that are served, None when not running."""
        return self._runner.addresses[0][:2] if self._runner and self._runner.addresses else None

    async def start(self) -> None:
        """Listen. Raises ConfigError for a missing secret and for an address that cannot be used."""
        host, port = listen_address(self._config)
        if not self._config.secret.get_secret_value():
            remedy = "Choose a long random word; the gateway sends it as bearer token, or in the URL: http://HOST:PORT/SECRET."
            raise ConfigError("wechat", "secret", None, "is empty", remedy)
        app = web.Application(client_max_size=self._config.max_body_bytes)
        app.router.add_post("/{path:.*}", self._post)
        # No access log: it would hold the secret path.
        self._runner = runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        self._closing = False
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await self.stop()
            problem = f"cannot be used: {error.strerror or error}"
            raise ConfigError("wechat", "listen", self._config.listen, problem, "Choose another address or port, or end what uses it.") from error
        log.info("wechat.listening", host=host, port=self.address[1] if self.address else port)

    async def stop(self) -> None:
        """Take no more requests, give those under way some seconds, close. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._closing = True
        for site in list(runner.sites):
            await site.stop()
        if self._under_way:
            await first_of(asyncio.wait(self._under_way), self._clock.sleep(_DRAIN_SECONDS))
        await cancel(*self._under_way)
        await runner.cleanup()

    async def _post(self, request: web.Request) -> web.StreamResponse:
        if not self._authorised(request):
            return web.json_response({"error": "unauthorized"}, status=401, headers={"WWW-Authenticate": "Bearer"})
        if self._closing:
            return web.json_response({"error": "shutting down"}, status=503)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await request.read()
            value = json.loads(body)
        except TimeoutError:
            return web.json_response({"error": "body too slow"}, status=408)
        except (ValueError, RecursionError):
            return web.json_response({"error": "not JSON"}, status=400)
        if not isinstance(value, dict):
            return web.json_response({"error": "not a JSON object"}, status=400)
        return await self._handle(request, value)

    async def _handle(self, request: web.Request, value: dict[str, Any]) -> web.StreamResponse:
        written: list[web.StreamResponse] = []

        async def respond(body: object) -> None:
            response = web.json_response(body)
            await response.prepare(request)
            await response.write_eof()
            written.append(response)

        # A task of its own: a gateway that hangs up must not interrupt the store half-way.
        task = asyncio.create_task(self._answer(value, respond), name="wechat-callback")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            await asyncio.shield(task)
        except BadCallbackError as error:
            return web.json_response({"error": str(error)}, status=400)
        except ConnectionError:
            log.info("wechat.gateway_hung_up")
        except Exception as error:  # whatever the store raised: not acknowledged, so that the gateway pushes again
            log.error("wechat.callback_failed", error=type(error).__name__)
        return written[0] if written else web.json_response({"error": "not stored, push again"}, status=500)

    def _authorised(self, request: web.Request) -> bool:
        secret = self._config.secret.get_secret_value().encode()
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        offered = [part for part in request.match_info["path"].split("/") if part]
        if scheme.lower() == "bearer":
            offered.append(token.strip())
        return any(hmac.compare_digest(offer.encode(errors="surrogateescape"), secret) for offer in offered)


class BadCallbackError(Exception):
    """A call-back without what its format requires; the text says what, without its content."""


class RoomLocks:
    """One first-come lock a room: calls of one room go one after the other, those of different rooms do not wait."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def run(self, room_id: str, work: Callable[[], Awaitable[None]]) -> None:
        lock, users = self._locks.get(room_id, (asyncio.Lock(), 0))
        self._locks[room_id] = lock, users + 1
        try:
            async with lock:
                await work()
        finally:
            lock, users = self._locks[room_id]
            if users == 1:
                del self._locks[room_id]
            else:
                self._locks[room_id] = lock, users - 1


def listen_address(config: WechatSection) -> tuple[str, int]:
    """Host and port to listen on. Raises ConfigError."""
    host, separator, port = config.listen.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError("wechat", "listen", config.listen, "is not host:port", "For example 127.0.0.1:9528, or 0.0.0.0:9528 behind a firewall.")
    return host.strip("[]"), int(port)
