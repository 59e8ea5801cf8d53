"""wkteam: its call-backs as messages, its API over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from adapters.wechat.payloads import PLATFORM
from adapters.wechat.wkteam import WkteamAdapter
from adapters.wechat.wkteam_api import WkteamApi, WkteamError
from adapters.wechat.wkteam_payloads import parse_callback
from core.config import WechatSection
from core.delivery import Delivery, Outcome
from core.errors import SendError
from core.messages import ConversationKey, Message, MessageKind, Recall
from core.ports import OutgoingReply
from storage.engine import open_database
from storage.outbox import SqlOutbox
from tests.adapters.conformance import SendFailure
from tests.adapters.manual_clock import ManualClock, eventually
from tests.adapters.recording_sink import RecordingSink
from tests.adapters.wechat.test_conformance import WkteamWire

GROUP = "22270365143@chatroom"
LINK = "<msg><appmsg><title>部署指南</title><type>5</type></appmsg></msg>"
QUOTE = (
    '<?xml version="1.0"?>\n<msg>\n<appmsg appid="">\n<title>怎么把它部署到 TX2？</title>\n<type>57</type>\n<refermsg>\n<type>1</type>\n<svrid>4482117376572170921</svrid>\n'
    "<fromusr>22270365143@chatroom</fromusr>\n<displayname>白露</displayname>\n<content>&lt;title&gt;mmpose&lt;/title&gt;</content>\n</refermsg>\n</appmsg>\n</msg>"
)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


def callback(kind: object = "80001", content: str = "你好", **data: Any) -> dict[str, Any]:
    base = {"wId": "i-1", "fromGroup": GROUP, "fromUser": "wxid_a", "toUser": "wxid_bot", "content": content, "self": False}
    base |= {"msgId": 7, "newMsgId": 4482117376572170921, "timestamp": 1772442000}
    return {"account": "1", "wcId": "wxid_bot", "messageType": kind, "data": base | data}


def parsed(value: dict[str, Any], bot_id: str = "") -> Message:
    found = parse_callback(value, bot_id)
    assert isinstance(found, Message)
    return found


class TestParsing:
    def test_text(self) -> None:
        assert parsed(callback()) == Message("wechat", GROUP, "4482117376572170921", "wxid_a", "你好", datetime(2026, 3, 2, 9, 0, tzinfo=UTC))

    @pytest.mark.parametrize(
        ("kind", "expected", "text"),
        [
            ("80002", MessageKind.IMAGE, "[图片]"),
            ("80007", MessageKind.LINK, "[链接] 部署指南"),
            ("80003", MessageKind.VIDEO, "[视频]"),
            ("80099", MessageKind.OTHER, "[其他消息]"),
            (9, MessageKind.TEXT, LINK),
            (10, MessageKind.IMAGE, "[图片]"),
            (14, MessageKind.LINK, "[链接] 部署指南"),
        ],
    )
    def test_kinds_of_both_formats(self, kind: object, expected: MessageKind, text: str) -> None:
        message = parsed(callback(kind, LINK))
        assert (message.kind, message.text) == (expected, text)

    @pytest.mark.parametrize("kind", ["80014", 14])
    def test_quote_tells_what_it_answers(self, kind: object) -> None:
        message = parsed(callback(kind, QUOTE, title="怎么把它部署到 TX2？"))
        assert (message.text, message.reply_to, message.kind) == ("怎么把它部署到 TX2？", "4482117376572170921", MessageKind.TEXT)

    def test_quote_without_xml_keeps_its_words(self) -> None:
        message = parsed(callback("80014", "", title="这个呢"))
        assert (message.text, message.reply_to) == ("这个呢", None)

    @pytest.mark.parametrize("atlist", [["wxid_bot"], "wxid_bot", '["wxid_bot"]'])
    def test_mention_of_the_bot_is_taken_out(self, atlist: object) -> None:
        message = parsed(callback(content="@豆 解\u2005怎么部署", atlist=atlist))
        assert (message.text, message.mentions) == ("怎么部署", ("wxid_bot",))

    def test_mentions_of_others_stay(self) -> None:
        assert parsed(callback(content="@白露\u2005怎么部署", atlist=["wxid_b"])).text == "@白露 怎么部署"

    @pytest.mark.parametrize(
        "value",
        [
            callback(self=True),
            callback(fromUser="wxid_bot"),
            callback("60001", fromGroup=""),
            callback("85001"),
            callback("00000"),
            callback(newMsgId=None, msgId=None),
            callback(fromUser=None),
            {},
            {"messageType": "00000"},
            {"messageType": "80001", "data": None},
            {"messageType": "80001", "data": []},
        ],
    )
    def test_what_is_no_group_message(self, value: dict[str, Any]) -> None:
        assert parse_callback(value) is None

    def test_recall(self) -> None:
        notice = '<sysmsg type="revokemsg"><revokemsg><session>g</session><msgid>1</msgid><newmsgid>4600650815041467804</newmsgid></revokemsg></sysmsg>'
        assert parse_callback(callback(14, notice)) == Recall("wechat", GROUP, "4600650815041467804", datetime(2026, 3, 2, 9, 0, tzinfo=UTC))

    @pytest.mark.parametrize("kind", ["80001", 9])
    def test_talk_of_recalls_is_no_recall(self, kind: object) -> None:
        """Else everybody could have the words of others erased, and who asks about the notice would not be heard."""
        text = "这个 <revokemsg><newmsgid>46</newmsgid></revokemsg> 怎么解析？"
        assert parsed(callback(kind, text)).text == text
        assert parsed(callback("80014", QUOTE.replace("怎么把它部署到 TX2？", "<![CDATA[<revokemsg>怎么解析？]]>"))).text == "<revokemsg>怎么解析？"

    def test_milliseconds_and_no_time(self) -> None:
        received = datetime(2026, 5, 1, tzinfo=UTC)
        assert parsed(callback(timestamp=1772442000000)).sent_at == datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
        message = parse_callback(callback(timestamp=None), received_at=received)
        assert isinstance(message, Message)
        assert message.sent_at == received

    @settings(max_examples=50, deadline=None)
    @given(st.dictionaries(st.sampled_from(["messageType", "data", "wcId"]), JSON), st.dictionaries(st.sampled_from([*callback()["data"], "atlist", "title"]), JSON))
    def test_odd_content_never_raises(self, value: dict[str, Any], data: dict[str, Any]) -> None:
        parse_callback(value)
        parse_callback(callback(**data))


class Bench:
    def __init__(self, wire: WkteamWire) -> None:
        self.wire, self.clock, self.sink = wire, wire.clock, RecordingSink()
        self.config = WechatSection(provider="wkteam", listen="127.0.0.1:0", secret="s", endpoint=wire.base, token="auth", wcid="wxid_bot")
        self.adapter = WkteamAdapter(self.config, self.clock)

    async def post(self, value: dict[str, Any], status: int = 200) -> Any:
        host, port = self.adapter.address or ("", 0)
        async with aiohttp.ClientSession() as session, session.post(f"http://{host}:{port}/callback", json=value, headers={"Authorization": "Bearer s"}) as response:
            assert response.status == status
            return await response.json()

    async def send(self, text: str = "收到", **fields: str) -> str:
        return await self.adapter.send(OutgoingReply(ConversationKey("wechat", GROUP), text, "k", **fields))

    def called(self, name: str) -> list[Any]:
        return [body for call, body in self.wire.calls if call == name]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    wire = WkteamWire(ManualClock())
    await wire.start()
    bench = Bench(wire)
    await bench.adapter.start(bench.sink)
    yield bench
    await bench.adapter.stop()
    await wire.close()


async def test_message_comes_with_names_that_are_asked_once(bench: Bench) -> None:
    assert await bench.post(callback()) == "done"
    await bench.post(callback(newMsgId=8))
    assert [(m.chat_name, m.sender_name) for m in bench.sink.messages] == [(f"name of {GROUP}", "name of wxid_a")] * 2
    assert (len(bench.called("getContact")), len(bench.called("getChatRoomMemberInfo"))) == (1, 1)
    assert await bench.adapter.groups() == [(GROUP, f"name of {GROUP}")]


async def test_members_of_groups_that_are_not_collected_are_not_looked_up(bench: Bench) -> None:
    bench.sink.not_collected.add(GROUP)
    await bench.post(callback())
    assert [(m.chat_name, m.sender_name) for m in bench.sink.messages] == [(f"name of {GROUP}", "")]
    assert bench.called("getChatRoomMemberInfo") == []


async def test_names_that_cannot_be_asked_do_not_hold_messages_back(bench: Bench) -> None:
    await bench.wire.go_down()
    await bench.post(callback())
    assert [(m.text, m.chat_name, m.sender_name) for m in bench.sink.messages] == [("你好", "", "")]


async def test_other_callbacks_are_acknowledged_and_dropped(bench: Bench) -> None:
    for value in (callback("60001", fromGroup=""), callback(self=True), {"messageType": "00000", "data": {}}):
        assert await bench.post(value) == "done"
    await bench.post({"a": 1}, status=400)
    assert bench.sink.messages == []


async def test_call_backs_of_another_account_of_the_gateway_are_not_ours(bench: Bench) -> None:
    """One call-back URL serves all accounts that are logged in there: their groups are none of ours, and nothing is to be sent by them."""
    with capture_logs() as logged:
        for _ in range(2):
            assert await bench.post(callback(wId="theirs") | {"wcId": "wxid_other"}) == "done"
        assert await bench.post({"messageType": 4, "wcId": "wxid_other", "data": {}}) == "done"
    assert [entry["event"] for entry in logged] == ["wechat.other_account"]
    assert bench.sink.messages == []
    assert bench.adapter.health().connected
    await bench.send()
    assert [body["wId"] for body in bench.called("sendText")] == ["instance-1"]


async def test_recall_is_passed_on(bench: Bench) -> None:
    await bench.post(callback(14, "<sysmsg><revokemsg><newmsgid>46</newmsgid></revokemsg></sysmsg>"))
    assert bench.sink.recalls[0].message_id == "46"


async def test_logout_shows_in_the_health(bench: Bench) -> None:
    await bench.post({"messageType": 4, "data": {}})
    assert not bench.adapter.health().connected
    await bench.post(callback())
    assert bench.adapter.health().connected
    assert bench.adapter.health().last_event_age == 0.0


async def test_sending_uses_the_login_of_the_callbacks(bench: Bench) -> None:
    await bench.post(callback())
    assert await bench.send(mention="wxid_a") == "4482117376572170921"
    assert bench.called("sendText") == [{"wId": "i-1", "wcId": GROUP, "content": "@name of wxid_a\u2005收到", "at": "wxid_a"}]
    assert bench.called("queryLoginWx") == []


async def test_own_message_can_be_recalled(bench: Bench) -> None:
    await bench.post(callback())
    sent = await bench.send()
    await bench.adapter.recall(ConversationKey("wechat", GROUP), sent)
    assert bench.called("revokeMsg") == [{"wId": "i-1", "wcId": GROUP, "msgId": 7, "newMsgId": 4482117376572170921, "createTime": 1641457769}]
    with pytest.raises(SendError, match="since the start"):
        await bench.adapter.recall(ConversationKey("wechat", GROUP), "unknown")


async def test_login_that_changed_is_looked_up_and_the_send_repeated(bench: Bench) -> None:
    await bench.post(callback(wId="stale"))
    bench.wire.fail_next_send(SendFailure.REFUSED)
    assert await bench.send() == "4482117376572170921"
    assert [body["wId"] for body in bench.called("sendText")] == ["stale", "instance-1"]


async def test_a_reply_that_is_on_its_way_at_the_stop_is_waited_for(bench: Bench) -> None:
    """The group has seen it: were it cut off, it would be said again after the start."""
    answered = bench.wire.delays["sendText"] = asyncio.Event()
    api = WkteamApi(bench.config)
    sending = asyncio.create_task(api.send_text(GROUP, "收到"))
    await eventually(bench.wire.sent)
    closing = asyncio.create_task(api.close())
    await asyncio.sleep(0)  # the closing has begun
    answered.set()
    assert (await sending)["msgId"] == 7
    await closing


async def test_a_reply_whose_name_is_looked_up_at_the_stop_is_not_sent_any_more(bench: Bench) -> None:
    answered = bench.wire.delays["getChatRoomMemberInfo"] = asyncio.Event()
    sending = asyncio.create_task(bench.send(mention="wxid_a"))
    await eventually(lambda: bench.called("getChatRoomMemberInfo"))
    await bench.adapter.stop()
    answered.set()
    with pytest.raises(SendError, match="not running") as caught:
        await sending
    assert (caught.value.retry_after, bench.wire.sent()) == (5.0, [])


async def test_a_reply_waits_as_long_as_wkteam_cannot_be_reached(bench: Bench, tmp_path: Path) -> None:
    """What no connection took is not in doubt: after two attempts in doubt it would be given up, within seconds."""
    async with contextlib.AsyncExitStack() as stack:
        database = await open_database(f"sqlite:///{tmp_path / 'bot.db'}", now=bench.clock.now)
        stack.push_async_callback(database.close)
        delivery = Delivery(SqlOutbox(database), {PLATFORM: bench.adapter}, timedelta(hours=1), clock=bench.clock)
        stack.push_async_callback(delivery.stop)
        outcomes, port = delivery.counts[PLATFORM], int(bench.wire.base.rpartition(":")[2])
        await bench.wire.go_down()
        await delivery.start()
        await delivery.enqueue(OutgoingReply(ConversationKey(PLATFORM, GROUP), "收到", "k"))
        await eventually(lambda: outcomes.total() > 3, tick=lambda: bench.clock.advance(1.0))
        await bench.post(callback())  # its login is known from now on: it is the sending itself that fails
        await eventually(lambda: outcomes.total() > 6, tick=lambda: bench.clock.advance(1.0))
        await bench.wire.start(port)
        await eventually(lambda: outcomes[Outcome.SENT], tick=lambda: bench.clock.advance(1.0))
    assert ([sent.text for sent in bench.wire.sent()], set(outcomes)) == (["收到"], {Outcome.RETRIED, Outcome.SENT})


async def test_a_reply_to_a_host_that_swallows_connections_is_not_in_doubt() -> None:
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # nobody accepts: the queue is full, and the system drops what comes more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        api = WkteamApi(WechatSection(provider="wkteam", endpoint=f"http://127.0.0.1:{full.getsockname()[1]}", token="auth"), deadline=0.2)
        api.learn_instance("i-1")
        with pytest.raises(WkteamError, match="no connection") as caught:
            await api.send_text(GROUP, "收到")
        await api.close()
    assert (caught.value.permanent, caught.value.retry_after) == (False, 5.0)


async def test_without_endpoint_it_only_listens() -> None:
    adapter = WkteamAdapter(WechatSection(provider="wkteam", listen="127.0.0.1:0", secret="s", wcid="wxid_bot"), ManualClock())
    await adapter.start(RecordingSink())
    with pytest.raises(SendError, match="endpoint") as caught:
        await adapter.send(OutgoingReply(ConversationKey("wechat", GROUP), "收到", "k"))
    assert caught.value.permanent
    await adapter.stop()
