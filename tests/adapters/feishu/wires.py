"""The loopback Feishu as the conformance suite's wire: over the long connection, and over the webhook."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
from typing import Any

import aiohttp
from Crypto.Cipher import AES
from pydantic import SecretStr

from adapters.feishu.adapter import FeishuAdapter
from core.config import FeishuSection
from tests.adapters.conformance import SendFailure, Sent, WireMessage
from tests.adapters.feishu.loopback import APP_ID, APP_SECRET, BOT_OPEN_ID, Failure, LoopbackFeishu
from tests.adapters.feishu.payloads import text_event
from tests.adapters.manual_clock import ManualClock, eventually

FAILURES = {
    SendFailure.UNAVAILABLE: Failure(502, text="<html>Bad Gateway</html>"),
    SendFailure.RATE_LIMITED: Failure(400, 99991400, headers={"x-ogw-ratelimit-reset": "3"}),
    SendFailure.REFUSED: Failure(400, 230002),
}


def section(server: LoopbackFeishu, **values: Any) -> FeishuSection:
    return FeishuSection(app_id=APP_ID, app_secret=SecretStr(APP_SECRET), domain=server.domain, **values)


def as_event(message: WireMessage) -> dict[str, Any]:
    sender = BOT_OPEN_ID if message.own else message.sender_id
    return text_event(message.message_id, message.text, message.chat_id, sender, int(message.sent_at.timestamp() * 1000))


class FeishuWire:
    """Implements :class:`tests.adapters.conformance.Wire` over the long connection."""

    def __init__(self, server: LoopbackFeishu) -> None:
        self.server, self.clock = server, ManualClock()
        self.config = section(server)
        self._frames = itertools.count()

    async def deliver(self, message: WireMessage) -> None:
        await self.server.push(f"{message.message_id}#{next(self._frames)}", as_event(message))

    def acknowledged(self) -> list[str]:
        return [key.partition("#")[0] for key, code in self.server.acknowledged if code == 200]

    async def drop_connection(self) -> None:
        await self.server.drop()

    def connected(self) -> bool:
        return self.server.connected

    def fail_next_send(self, failure: SendFailure, times: int = 1) -> None:
        self.server.failures["/open-apis/im/v1/messages"] = [FAILURES[failure]] * times

    def sent(self) -> list[Sent]:
        return [Sent(shown["chat_id"], shown["text"]) for shown in self.server.messages.values()]

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)


class FeishuWebhookWire(FeishuWire):
    """Implements the wire by signed and encrypted call-backs, one request after the other for each conversation as the platform does."""

    KEY = "encrypt-me"

    def __init__(self, server: LoopbackFeishu) -> None:
        super().__init__(server)
        self.config = section(server, mode="webhook", encrypt_key=SecretStr(self.KEY), listen="127.0.0.1:0")
        self.adapter = FeishuAdapter(self.config, self.clock)
        self._done: list[str] = []
        self._turn = asyncio.Lock()
        self._posts: set[asyncio.Task[None]] = set()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))

    async def deliver(self, message: WireMessage) -> None:
        async with self._turn:
            headers, body = signed(as_event(message), self.KEY, self.clock.now().timestamp())
            started = asyncio.Event()
            self._posts.add(asyncio.create_task(self._post(message.message_id, headers, body, started)))
            await started.wait()

    async def _post(self, message_id: str, headers: dict[str, str], body: bytes, started: asyncio.Event) -> None:
        before = self.adapter.received
        posting = asyncio.ensure_future(self._session.post(self.url, data=body, headers=headers))
        await eventually(lambda: posting.done() or self.adapter.received > before, 60.0)
        started.set()  # it stands in its lane: the next one may follow
        try:
            async with await posting as response:
                if response.status == 200:
                    self._done.append(message_id)
        except aiohttp.ClientError:
            return  # the adapter stopped

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.adapter.webhook_port}{self.config.path}"

    def acknowledged(self) -> list[str]:
        return list(self._done)

    async def drop_connection(self) -> None:
        return None

    def connected(self) -> bool:
        return True

    async def close(self) -> None:
        for post in self._posts:
            post.cancel()
        await asyncio.gather(*self._posts, return_exceptions=True)
        await self._session.close()


def encrypted(payload: dict[str, Any], key: str) -> bytes:
    """The body as the platform encrypts it: AES-256-CBC, key SHA-256 of the Encrypt Key, IV first, PKCS7, base64."""
    plain = json.dumps(payload).encode()
    pad = AES.block_size - len(plain) % AES.block_size
    iv = os.urandom(AES.block_size)
    cipher = AES.new(hashlib.sha256(key.encode()).digest(), AES.MODE_CBC, iv)
    return json.dumps({"encrypt": base64.b64encode(iv + cipher.encrypt(plain + bytes([pad]) * pad)).decode()}).encode()


def signed(payload: dict[str, Any], key: str, timestamp: float, nonce: str | None = None) -> tuple[dict[str, str], bytes]:
    """Headers and encrypted body of a call-back."""
    body = encrypted(payload, key)
    nonce = os.urandom(8).hex() if nonce is None else nonce
    stamp = str(int(timestamp))
    signature = hashlib.sha256(f"{stamp}{nonce}{key}".encode() + body).hexdigest()
    return {"X-Lark-Request-Timestamp": stamp, "X-Lark-Request-Nonce": nonce, "X-Lark-Signature": signature, "Content-Type": "application/json"}, body
