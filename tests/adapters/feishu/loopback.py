"""A Feishu of our own on a loopback port: tokens, REST, the long connection's endpoint, and real WebSockets that speak the platform's protobuf frames.

It keeps the platform's habits: an event is pushed again after a new connection until it is acknowledged (or, where it is given a clock, by the platform's timer unless the
acknowledgement comes in time), a repeated ``uuid`` shows a message once, errors come as a code in JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from adapters.feishu import sdk
from core.clock import Clock

IN_TIME_SECONDS = 3.0
PUSHED_AGAIN_AFTER = (15.0, 300.0, 3600.0, 21600.0)
"""Seconds after the first push (reported of the platform)."""
APP_ID, APP_SECRET, BOT_OPEN_ID = "cli_test", "secret-of-the-app", "ou_bot"


@dataclass
class Call:
    """One REST call as the platform saw it."""

    method: str
    path: str
    body: dict[str, Any]
    token: str


@dataclass(frozen=True)
class Failure:
    """An answer to give instead of the real one. ``text``: not JSON."""

    status: int = 200
    code: int = 0
    text: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> web.Response:
        if self.text is not None:
            return web.Response(status=self.status, text=self.text, headers=dict(self.headers))
        return web.json_response({"code": self.code, "msg": "refused by the test"}, status=self.status, headers=dict(self.headers))


class LoopbackFeishu:
    """Use as ``async with LoopbackFeishu() as feishu``; ``feishu.domain`` is what goes into the config."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self._timers: list[asyncio.Task[None]] = []
        self._in_time: set[str] = set()
        self.pushes: Counter[str] = Counter()  # by frame key: how often somebody who was connected got it
        self.loses_acknowledgements = False
        self.chats: dict[str, str] = {"chat-1": "一群", "chat-2": "二群"}
        self.owners: dict[str, str] = {"chat-1": "olive"}
        self.managers: dict[str, list[str]] = {"chat-1": ["max", "mia"]}
        self.members: dict[str, str] = {"alice": "爱丽丝", "bob": "小波"}
        self.scopes: set[str] = set()
        self.subscribed: set[str] = set()
        self.failures: dict[str, list[Failure]] = {}  # by the beginning of the path, used up one a call
        self.delays: dict[str, float] = {}  # by the beginning of the path, seconds
        self.client_config: dict[str, int] = {"ReconnectCount": -1, "ReconnectInterval": 120, "ReconnectNonce": 2, "PingInterval": 90}
        self.calls: list[Call] = []
        self.messages: dict[str, dict[str, Any]] = {}  # by uuid
        self.recalled: list[str] = []
        self.acknowledged: list[tuple[str, int]] = []  # frame key, code
        self.black_hole = False
        self.control_frames = 0
        self._tokens = 0
        self._valid: set[str] = set()
        self._pending: dict[str, bytes] = {}
        self._sockets: list[tuple[web.WebSocketResponse, web.Request]] = []
        self._opened = asyncio.Event()
        self._pushing = asyncio.Lock()
        self.connections = 0

    async def __aenter__(self) -> LoopbackFeishu:
        await asyncio.get_running_loop().run_in_executor(None, sdk.load)
        application = web.Application()
        application.router.add_get("/ws", self._socket)
        application.router.add_route("*", "/{path:.*}", self._rest)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        self.domain = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        await self.drop()
        await self._runner.cleanup()

    # --- the long connection ---

    @property
    def connected(self) -> bool:
        return bool(self._sockets)

    async def push(self, key: str, event: Mapping[str, Any] | bytes, parts: int = 1, frame_type: str = "event") -> None:
        """Push one event; ``key`` names it in :attr:`acknowledged`. Waits for a connection where there is no timer."""
        payload = event if isinstance(event, bytes) else json.dumps(event).encode()
        if self._clock is not None:
            await self._push_now(key, payload)
            self._timers.append(asyncio.create_task(self._push_again(self._clock, key, payload)))
            return
        while True:
            await self._opened.wait()
            async with self._pushing:
                if not self._sockets:
                    continue
                self._pending[key] = payload
                with contextlib.suppress(ConnectionError, IndexError):  # dropped meanwhile: pending
                    for frame in _frames(key, payload, parts, frame_type):
                        await self._sockets[-1][0].send_bytes(frame)
                return

    async def _push_now(self, key: str, payload: bytes) -> None:
        self._in_time.discard(key)
        if self._sockets:
            self.pushes[key] += 1
            with contextlib.suppress(ConnectionError):
                for frame in _frames(key, payload, 1, "event"):
                    await self._sockets[-1][0].send_bytes(frame)

    async def _push_again(self, clock: Clock, key: str, payload: bytes) -> None:
        """By the platform's timer, until an acknowledgement comes in time."""
        first = clock.monotonic()
        for after in PUSHED_AGAIN_AFTER:
            await clock.sleep(IN_TIME_SECONDS)
            if key in self._in_time:
                return
            self._in_time.discard(key)
            await clock.sleep(first + after - clock.monotonic())
            await self._push_now(key, payload)

    async def send_raw(self, data: bytes | str) -> None:
        """A WebSocket message that need not be a frame of the protocol."""
        socket = self._sockets[-1][0]
        await (socket.send_str(data) if isinstance(data, str) else socket.send_bytes(data))

    async def drop(self) -> None:
        """Cut all connections without a good-bye."""
        for _, request in self._sockets:
            if request.transport is not None:
                request.transport.abort()
        self._sockets.clear()
        self._opened.clear()
        await asyncio.sleep(0)

    def revoke_tokens(self) -> None:
        self._valid.clear()

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        mine = (socket, request)
        async with self._pushing:
            self._sockets.append(mine)
            self.connections += 1
            for key, payload in list(self._pending.items()):
                for frame in _frames(key, payload, 1, "event"):
                    await socket.send_bytes(frame)
            self._opened.set()
        try:
            async for message in socket:
                if self.black_hole:
                    continue
                if message.type is WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type is WSMsgType.BINARY:
                    await self._frame(socket, message.data)
        finally:
            if mine in self._sockets:
                self._sockets.remove(mine)
            if not self._sockets:
                self._opened.clear()
        return socket

    async def _frame(self, socket: web.WebSocketResponse, data: bytes) -> None:
        lark = sdk.load()
        frame = lark.ws.Frame()
        frame.ParseFromString(data)
        headers = {header.key: header.value for header in frame.headers}
        if headers["type"] == "ping":
            self.control_frames += 1
            frame.headers[0].value = "pong"
            frame.payload = json.dumps({"PingInterval": 90}).encode()
            await socket.send_bytes(frame.SerializeToString())
            return
        code = json.loads(frame.payload)["code"]
        if self.loses_acknowledgements:
            return
        self._in_time.add(headers["message_id"])
        self.acknowledged.append((headers["message_id"], code))
        if code == 200:
            self._pending.pop(headers["message_id"], None)

    # --- REST ---

    async def _rest(self, request: web.Request) -> web.Response:
        path = request.path
        text = await request.text()
        body = json.loads(text) if text else {}
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.calls.append(Call(request.method, path, body, token))
        for prefix, seconds in self.delays.items():
            if path.startswith(prefix):
                await asyncio.sleep(seconds)
        for prefix, failures in self.failures.items():
            if path.startswith(prefix) and failures:
                return failures.pop(0).response()
        if path == "/open-apis/auth/v3/tenant_access_token/internal":
            return self._token(body)
        if path == "/callback/ws/endpoint":
            return self._endpoint(body)
        if token not in self._valid:
            return web.json_response({"code": 99991663, "msg": "Invalid access token for authorization."}, status=400)
        return self._api(request.method, path.removeprefix("/open-apis/"), body, dict(request.query))

    def _token(self, body: Mapping[str, Any]) -> web.Response:
        if body.get("app_id") != APP_ID:
            return web.json_response({"code": 10003, "msg": "invalid param"})
        if body.get("app_secret") != APP_SECRET:
            return web.json_response({"code": 10014, "msg": "app secret invalid"})
        self._tokens += 1
        token = f"t-{self._tokens}"
        self._valid.add(token)
        return web.json_response({"code": 0, "msg": "ok", "tenant_access_token": token, "expire": 7200})

    def _endpoint(self, body: Mapping[str, Any]) -> web.Response:
        if body.get("AppSecret") != APP_SECRET:
            return web.json_response({"code": 514, "msg": "auth failed"})
        url = f"ws://127.0.0.1:{self.port}/ws?device_id=dev-{self.connections}&service_id=7&ticket=very-secret"
        return web.json_response({"code": 0, "msg": "ok", "data": {"URL": url, "ClientConfig": self.client_config}})

    def _api(self, method: str, path: str, body: Mapping[str, Any], query: Mapping[str, str]) -> web.Response:
        parts = path.split("/")
        match method, parts:
            case "GET", ["bot", "v3", "info"]:
                return web.json_response({"code": 0, "msg": "ok", "bot": {"open_id": BOT_OPEN_ID, "app_name": "豆解"}})
            case "GET", ["im", "v1", "chats"]:
                return self._page(query)
            case "GET", ["im", "v1", "chats", chat_id]:
                return self._chat(chat_id, query) if chat_id in self.chats else _refused(232006)
            case "GET", ["contact", "v3", "users", user_id]:
                return _ok({"user": {"open_id": user_id, "name": self.members[user_id]}}) if user_id in self.members else _refused(41012)
            case "POST", ["im", "v1", "messages"]:
                return self._show(str(body["receive_id"]), None, body)
            case "POST", ["im", "v1", "messages", message_id, "reply"]:
                return self._show("chat-1", message_id, body)
            case "DELETE", ["im", "v1", "messages", message_id]:
                self.recalled.append(message_id)
                return _ok({})
            case "GET", ["application", "v6", "scopes"]:
                return _ok({"scopes": [{"scope_name": scope, "grant_status": 1} for scope in sorted(self.scopes)] + [{"scope_name": "im:resource", "grant_status": 2}]})
            case "GET", ["application", "v6", "applications", _]:
                return _ok({"app": {"online_version_id": "oav_1"}})
            case "GET", ["application", "v6", "applications", _, "app_versions", _]:
                return _ok({"app_version": {"event_infos": [{"event_type": event} for event in sorted(self.subscribed)]}})
            case _:
                return web.json_response({"code": 404, "msg": f"no {method} {path}"}, status=404)

    def _chat(self, chat_id: str, query: Mapping[str, str]) -> web.Response:
        """Ids are open_ids only for those who ask for them so."""
        shown = (lambda member: member) if query.get("user_id_type") == "open_id" else (lambda member: f"on_{member}")
        owner = {"owner_id": shown(self.owners[chat_id]), "owner_id_type": "open_id"} if chat_id in self.owners else {}
        return _ok(
            {"name": self.chats[chat_id], "user_manager_id_list": [shown(member) for member in self.managers.get(chat_id, [])], "bot_manager_id_list": ["cli_other"], **owner}
        )

    def _page(self, query: Mapping[str, str]) -> web.Response:
        """One group a page, to make clients turn pages."""
        index, chats = int(query.get("page_token", "0")), sorted(self.chats.items())
        items = [{"chat_id": chat_id, "name": name} for chat_id, name in chats[index : index + 1]]
        more = index + 1 < len(chats)
        return _ok({"items": items, "has_more": more, "page_token": str(index + 1) if more else ""})

    def _show(self, chat_id: str, quoted: str | None, body: Mapping[str, Any]) -> web.Response:
        uuid = str(body.get("uuid") or f"none-{len(self.messages)}")
        if len(uuid) > 50:
            return _refused(99992402)
        shown = self.messages.setdefault(uuid, {"message_id": f"om_{len(self.messages)}", "chat_id": chat_id, "quoted": quoted, "text": json.loads(body["content"])["text"]})
        return _ok({"message_id": shown["message_id"]})


def _ok(data: Mapping[str, Any]) -> web.Response:
    return web.json_response({"code": 0, "msg": "success", "data": data})


def _refused(code: int) -> web.Response:
    return web.json_response({"code": code, "msg": "refused"}, status=400)


def _frames(key: str, payload: bytes, parts: int, frame_type: str) -> list[bytes]:
    lark = sdk.load()
    size = -(-len(payload) // parts)
    encoded = []
    for seq in range(parts):
        frame = lark.ws.Frame()
        frame.SeqID, frame.LogID, frame.service, frame.method = seq, 0, 7, 1
        for name, value in {"type": frame_type, "message_id": key, "trace_id": "trace", "sum": str(parts), "seq": str(seq)}.items():
            header = frame.headers.add()
            header.key, header.value = name, value
        frame.payload = payload[seq * size : (seq + 1) * size]
        encoded.append(frame.SerializeToString())
    return encoded
