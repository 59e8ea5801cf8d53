"""Events by HTTP call-back: challenge, decryption, signature, age, replay and size are checked before anything is believed.

The SDK's own handler accepts replays and stale requests, answers 500 to lower-cased headers and puts the challenge into JSON unescaped; of it we use the cipher.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from adapters.feishu import sdk
from adapters.feishu.lanes import LanesClosed
from core.clock import Clock
from core.config import FeishuSection
from core.errors import ConfigError

log = structlog.get_logger(__name__)

MAX_AGE_SECONDS = 300.0
REMEMBERED_REQUESTS = 100_000


class Rejected(Exception):  # noqa: N818  # an answer, not a fault of ours
    """A request that is not believed: HTTP ``status`` and a reason without secrets."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(reason)


class Verifier:
    """Decides whether a request comes from the platform, and opens it."""

    def __init__(self, encrypt_key: str, verification_token: str, clock: Clock) -> None:
        """:raises ConfigError: when there is neither key nor token, so that anybody could post events."""
        if not encrypt_key and not verification_token:
            raise ConfigError(
                "feishu",
                "encrypt_key",
                None,
                "webhook mode needs encrypt_key, verification_token, or both",
                "Copy them from 'Events & Callbacks > Encryption Strategy' (事件与回调 > 加密策略) in the developer console.",
            )
        self._key, self._token, self._clock = encrypt_key, verification_token, clock
        self._seen: OrderedDict[str, float] = OrderedDict()

    def open(self, headers: Any, body: bytes) -> tuple[dict[str, Any], str]:
        """The decrypted payload and the request's fingerprint ("" when requests are not signed). ``headers`` ignore case.

        :raises Rejected: 400 for what is no JSON, 401 for what is not the platform's, is too old, or came before.
        """
        outer = _json(body)
        payload = self._decrypted(outer) if self._key else outer
        self._check_token(payload)
        if payload.get("type") == "url_verification":
            return payload, ""  # comes unsigned; the cipher or the token have proved it
        return payload, self._check_signature(headers, body) if self._key else ""

    def handled(self, fingerprint: str) -> None:
        """From now on the same request is a replay. Called when its event is stored: an honest repetition after a failure must get through."""
        if not fingerprint:
            return
        now = self._clock.monotonic()
        self._seen[fingerprint] = now + 2 * MAX_AGE_SECONDS
        while self._seen and (len(self._seen) > REMEMBERED_REQUESTS or next(iter(self._seen.values())) < now):
            self._seen.popitem(last=False)

    def _decrypted(self, outer: dict[str, Any]) -> dict[str, Any]:
        encrypted = outer.get("encrypt")
        if not isinstance(encrypted, str):
            raise Rejected(401, "not encrypted")
        try:
            return _json(sdk.load().utils.AESCipher(self._key).decrypt_str(encrypted).encode())
        except (ValueError, binascii.Error, Rejected):
            raise Rejected(401, "not encrypted with our key") from None

    def _check_token(self, payload: dict[str, Any]) -> None:
        if not self._token:
            return
        header = payload.get("header")
        token = header.get("token") if isinstance(header, dict) else payload.get("token")
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(), self._token.encode()):
            raise Rejected(401, "wrong verification token")

    def _check_signature(self, headers: Any, body: bytes) -> str:
        timestamp, nonce, signature = (str(headers.get(f"X-Lark-{name}") or "") for name in ("Request-Timestamp", "Request-Nonce", "Signature"))
        expected = hashlib.sha256(f"{timestamp}{nonce}{self._key}".encode() + body).hexdigest()
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise Rejected(401, "wrong signature")
        try:
            age = abs(self._clock.now().timestamp() - float(timestamp))
        except ValueError:
            raise Rejected(401, "no timestamp") from None
        if not age <= MAX_AGE_SECONDS:
            raise Rejected(401, "too old; check this machine's clock")
        if expected in self._seen:
            raise Rejected(401, "a replay")
        return expected


class Webhook:
    """The HTTP server of webhook mode."""

    def __init__(self, config: FeishuSection, clock: Clock, deliver: Callable[[bytes], Awaitable[None]], room: Callable[[], Awaitable[None]]) -> None:
        self._config, self._deliver, self._room = config, deliver, room
        self._verifier = Verifier(config.encrypt_key.get_secret_value(), config.verification_token.get_secret_value(), clock)
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def connected(self) -> bool:
        return self._runner is not None

    async def start(self) -> None:
        """Listen. Raises ConfigError when the address cannot be used."""
        host, port = _address(self._config.listen)
        application = web.Application(client_max_size=self._config.max_body_bytes)
        application.router.add_post(self._config.path, self._take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigError("feishu", "listen", self._config.listen, f"cannot listen there: {error.strerror or error}", "Choose a free port of this machine.") from None
        self._runner, self.port = runner, runner.addresses[0][1]
        log.info("feishu.webhook_listening", host=host, port=self.port, path=self._config.path)

    async def stop(self, drain: Callable[[], Awaitable[None]]) -> None:
        """Take no more connections, await ``drain`` while answers can still be given, then close. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            for site in list(runner.sites):
                await site.stop()
        await drain()
        if runner is not None:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        try:
            body = await request.read()
            payload, fingerprint = self._verifier.open(request.headers, body)
        except web.HTTPRequestEntityTooLarge:
            log.warning("feishu.webhook_rejected", reason="too large")
            return web.json_response({"msg": "too large"}, status=413)
        except Rejected as rejected:
            log.warning("feishu.webhook_rejected", reason=rejected.reason)
            return web.json_response({"msg": rejected.reason}, status=rejected.status)
        if payload.get("type") == "url_verification":
            return web.json_response({"challenge": payload.get("challenge")})
        await self._room()
        try:
            await self._deliver(json.dumps(payload).encode())
        except LanesClosed:
            return web.json_response({"msg": "stopping, push again"}, status=503)
        except Exception as error:  # whatever the store raised: not acknowledged, so that the platform pushes again
            log.warning("feishu.event_not_stored", error=type(error).__name__)
            return web.json_response({"msg": "not stored, push again"}, status=500)
        self._verifier.handled(fingerprint)
        return web.json_response({"msg": "success"})


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Rejected(400, "not JSON") from None
    if not isinstance(value, dict):
        raise Rejected(400, "not a JSON object")
    return value


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError("feishu", "listen", listen, "not an address", "Write host:port, for example 127.0.0.1:9527.")
    return host.strip("[]"), int(port)
