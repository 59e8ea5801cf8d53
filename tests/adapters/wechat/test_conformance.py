"""The three providers keep what every adapter keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from grpclib.const import Status

from adapters.wechat.android import AndroidAdapter, parse_query
from adapters.wechat.wechaty_adapter import WechatyAdapter
from adapters.wechat.wkteam import WkteamAdapter
from core.config import WechatSection
from core.messages import Message
from core.ports import Adapter
from tests.adapters.conformance import AdapterConformance, SendFailure, Sent, Wire, WireMessage
from tests.adapters.manual_clock import ManualClock
from tests.adapters.recording_sink import RecordingSink
from tests.adapters.wechat.http_wire import SECRET, HttpWire
from tests.adapters.wechat.loopback_puppet import BOT, LoopbackPuppet

_STATUSES = {SendFailure.UNAVAILABLE: Status.UNAVAILABLE, SendFailure.RATE_LIMITED: Status.RESOURCE_EXHAUSTED, SendFailure.REFUSED: Status.PERMISSION_DENIED}


class PuppetWire:
    def __init__(self, server: LoopbackPuppet, clock: ManualClock) -> None:
        self.server, self.clock = server, clock

    async def deliver(self, message: WireMessage) -> None:
        self.server.message(message.message_id, message.text, room=message.chat_id, sender=BOT if message.own else message.sender_id, at=message.sent_at.timestamp())

    def acknowledged(self) -> list[str]:
        return []

    async def drop_connection(self) -> None:
        self.server.drop()

    def connected(self) -> bool:
        return self.server.connected

    def fail_next_send(self, failure: SendFailure, times: int = 1) -> None:
        self.server.fail("MessageSendText", *[_STATUSES[failure]] * times)

    def sent(self) -> list[Sent]:
        return [Sent(room, text) for room, text, _ in self.server.sent]

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)


class TestWechaty(AdapterConformance):
    platform = "wechat"
    acknowledges = False

    @pytest.fixture
    async def wire(self) -> AsyncIterator[Wire]:
        async with LoopbackPuppet() as server:
            yield PuppetWire(server, ManualClock())

    @pytest.fixture
    async def adapter(self, wire: PuppetWire) -> Adapter:
        return WechatyAdapter(WechatSection(endpoint=wire.server.endpoint, token="token"), wire.clock)

    @staticmethod
    def adapters_own(tasks: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
        return {task for task in tasks if "grpclib/server" not in str(task.get_coro())}


class AndroidWire(HttpWire):
    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.made: dict[str, str] = {}
        self._sent: list[Sent] = []

    async def deliver(self, message: WireMessage) -> None:
        user = "豆解" if message.own else message.sender_id
        query = {"query_id": message.message_id, "groupname": message.chat_id, "username": user, "query": {"type": "text", "content": message.text}}
        self.made[parse_query(query).digest()] = message.message_id
        await self.post(query, message.message_id)

    def answered(self, label: str, answer: Any) -> None:
        if label != "poll":
            return super().answered(label, answer)
        self._sent += [Sent(item["req"]["groupname"], item["rsp"]["text"]) for item in answer["data"]]
        return None

    def sent(self) -> list[Sent]:
        return list(self._sent)

    async def advance(self, seconds: float) -> None:
        await super().advance(seconds)
        if seconds and self.adapter.address and not self._waiting:
            await self.post({"query_id": "p", "groupname": "chat-1", "username": "x", "query": {"type": "poll"}}, "poll")


class TestAndroid(AdapterConformance):
    platform = "wechat"
    connects = False

    @pytest.fixture
    async def wire(self) -> AsyncIterator[Wire]:
        wire = AndroidWire(ManualClock())
        yield wire
        await wire.close()

    @pytest.fixture
    async def adapter(self, wire: AndroidWire) -> Adapter:
        wire.adapter = AndroidAdapter(WechatSection(provider="android", listen="127.0.0.1:0", secret=SECRET, wcid="豆解"), wire.clock)
        return wire.adapter

    @pytest.fixture
    async def sink(self, wire: AndroidWire) -> RecordingSink:
        return NumberingSink(wire.made)

    test_a_passing_send_failure_is_retried_or_reported = None
    test_a_refused_send_is_reported_as_permanent = None

    async def test_a_message_arrives_with_what_the_platform_said(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        """All but the time, which the app does not tell."""
        await wire.deliver(WireMessage("m1", "怎么把它部署到 TX2？", sender_id="carol"))
        await self.until(wire, lambda: sink.messages)
        got = sink.messages[0]
        assert (got.platform, got.chat_id, got.message_id, got.sender_id, got.text) == ("wechat", "chat-1", "m1", "carol", "怎么把它部署到 TX2？")


class NumberingSink(RecordingSink):
    """The app has no message ids, the adapter makes them: the suite sees each message under the id that its ``query_id`` gave it."""

    def __init__(self, made: dict[str, str]) -> None:
        super().__init__()
        self._made = made

    async def message(self, message: Message) -> None:
        await super().message(replace(message, message_id=self._made[message.message_id]))


class WkteamWire(HttpWire):
    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self._failures: list[SendFailure] = []
        self._sent: list[Sent] = []
        self.calls: list[tuple[str, Any]] = []
        self.base = ""
        self.delays: dict[str, asyncio.Event] = {}  # what answers wait for, by call; what is sent the group sees at once
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_post("/{call}", self._api)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.base = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        await super().close()
        await self.go_down()

    async def go_down(self) -> None:
        """Connections are refused until the next start."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _api(self, request: web.Request) -> web.Response:
        call, body = request.match_info["call"], await request.json()
        self.calls.append((call, body))
        if request.headers.get("Authorization") != "auth":
            return web.json_response({"code": "1001"}, status=401)
        data: Any = None
        if call == "queryLoginWx":
            data = [{"wcId": BOT, "wId": "instance-1"}]
        elif call in ("getContact", "getChatRoomMemberInfo"):
            data = [{"nickName": f"name of {body.get('userList') or body['wcId']}"}]
        elif call == "sendText":
            if self._failures:
                failure = self._failures.pop(0)
                status = {SendFailure.UNAVAILABLE: 503, SendFailure.RATE_LIMITED: 429, SendFailure.REFUSED: 200}[failure]
                return web.json_response({"code": "1001", "message": "失败", "data": None}, status=status)
            self._sent.append(Sent(body["wcId"], body["content"]))
            data = {"type": 1, "msgId": 7, "newMsgId": 4482117376572170921, "createTime": 1641457769, "wcId": body["wcId"]}
        if (delay := self.delays.get(call)) is not None:
            await delay.wait()
        return web.json_response({"code": "1000", "message": "处理成功", "data": data})

    async def deliver(self, message: WireMessage) -> None:
        data = {"fromGroup": message.chat_id, "fromUser": BOT if message.own else message.sender_id, "content": message.text, "newMsgId": message.message_id}
        data |= {"timestamp": int(message.sent_at.timestamp()), "self": message.own, "wId": "instance-1"}
        await self.post({"wcId": BOT, "account": "1", "messageType": "80001", "data": data}, message.message_id)

    def fail_next_send(self, failure: SendFailure, times: int = 1) -> None:
        self._failures += [failure] * times

    def sent(self) -> list[Sent]:
        return list(self._sent)


class TestWkteam(AdapterConformance):
    platform = "wechat"
    connects = False

    @pytest.fixture
    async def wire(self) -> AsyncIterator[Wire]:
        wire = WkteamWire(ManualClock())
        await wire.start()
        yield wire
        await wire.close()

    @pytest.fixture
    async def adapter(self, wire: WkteamWire) -> Adapter:
        wire.adapter = WkteamAdapter(WechatSection(provider="wkteam", listen="127.0.0.1:0", secret=SECRET, endpoint=wire.base, token="auth", wcid=BOT), wire.clock)
        return wire.adapter
