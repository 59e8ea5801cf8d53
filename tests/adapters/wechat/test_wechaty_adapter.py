"""What the wechaty provider receives and sends, by a puppet service with the faults that real ones have: the real wechaty client over real gRPC."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from grpclib.const import Status

from adapters.wechat.wechaty_adapter import WechatyAdapter
from core.config import WechatSection
from core.errors import SendError
from core.messages import ConversationKey, MessageKind
from tests.adapters.manual_clock import eventually
from tests.adapters.wechat.loopback_puppet import BOT, LoopbackPuppet
from tests.adapters.wechat.wechaty_bench import ROOM, Bench, reply


class TestMessages:
    async def test_order_survives_slow_fetches_and_fetches_overlap(self, bench: Bench) -> None:
        gates = {f"m{i}": asyncio.Event() for i in range(5)}
        bench.server.delays = dict(gates)
        for name in gates:
            bench.server.message(name)
        await eventually(lambda: bench.server.calls["MessagePayload"] == 5)
        for name in reversed(gates):
            gates[name].set()
            await asyncio.sleep(0.01)
        await bench.until(lambda: len(bench.sink.messages) == 5)
        assert bench.sink.ids() == list(gates)

    async def test_failed_look_up_is_tried_again_in_order(self, bench: Bench) -> None:
        bench.server.fail("MessagePayload", Status.UNAVAILABLE, Status.INTERNAL)
        bench.server.message("m1")
        await eventually(lambda: bench.server.calls["MessagePayload"] == 1)
        bench.server.message("m2")
        await bench.until(lambda: len(bench.sink.messages) == 2)
        assert bench.sink.ids() == ["m1", "m2"]

    async def test_look_up_that_fails_for_long_comes_late_and_holds_nobody_up(self, bench: Bench) -> None:
        bench.server.event(2, {"messageId": "m1"})
        bench.server.message("m2")
        await bench.until(lambda: bench.sink.ids() == ["m2"])
        payloads, bench.server.payloads = bench.server.payloads, {}
        bench.server.message("m1")
        bench.server.payloads |= payloads
        await bench.until(lambda: bench.sink.ids() == ["m2", "m1"], step=1.0)

    async def test_redelivery_after_a_given_up_look_up_is_taken(self, bench: Bench) -> None:
        bench.server.event(2, {"messageId": "m1"})
        await bench.until(lambda: bench.server.calls["MessagePayload"] >= 9, step=5.0)
        await asyncio.sleep(0.05)
        bench.server.message("m1")
        assert await bench.text_of("m1") == "你好"

    async def test_hanging_look_ups_have_a_deadline(self, impatient: Bench) -> None:
        impatient.server.hanging.update({"RoomPayload", "RoomMemberPayload", "ContactPayload"})
        impatient.server.message("m1")
        await impatient.until(lambda: impatient.sink.messages)
        message = impatient.sink.messages[0]
        assert (message.text, message.chat_name, message.sender_name) == ("你好", "", "")

    @pytest.mark.parametrize(
        ("number", "kind", "text"),
        [
            (7, MessageKind.TEXT, "正文"),
            (6, MessageKind.IMAGE, "[图片]"),
            (1, MessageKind.FILE, "[文件]"),
            (2, MessageKind.AUDIO, "[语音]"),
            (5, MessageKind.STICKER, "[表情]"),
            (15, MessageKind.VIDEO, "[视频]"),
            (14, MessageKind.LINK, "[链接]"),
            (0, MessageKind.OTHER, "[其他消息]"),
            (16, MessageKind.OTHER, "[其他消息]"),
            (4711, MessageKind.OTHER, "[其他消息]"),
        ],
    )
    async def test_types_are_those_of_the_typescript_puppet(self, bench: Bench, number: int, kind: MessageKind, text: str) -> None:
        bench.server.message("m1", "正文", kind=number)
        assert await bench.text_of("m1") == text
        assert bench.sink.messages[0].kind is kind

    @pytest.mark.parametrize("at", [1772442000, 1772442000000])
    async def test_seconds_and_milliseconds(self, bench: Bench, at: float) -> None:
        bench.server.message("m1", at=at)
        await bench.text_of("m1")
        assert bench.sink.messages[0].sent_at == datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

    async def test_names_and_mentions(self, bench: Bench) -> None:
        bench.server.aliases["chat-1", "alice"] = "爱丽丝·后端"
        bench.server.aliases["chat-1", BOT] = "豆豆"
        bench.server.message("m1", "@豆豆\u2005@鲍勃\u2005 怎么部署？", mentions=(BOT, "bob"))
        bench.server.message("m2", "@豆解\u2005再说一遍", sender="bob", mentions=(BOT,))
        assert await bench.text_of("m1") == "@鲍勃  怎么部署？"
        assert await bench.text_of("m2") == "再说一遍"
        first, second = bench.sink.messages
        assert (first.chat_name, first.sender_name, first.mentions) == ("部署交流群", "爱丽丝·后端", (BOT, "bob"))
        assert second.sender_name == "鲍勃"

    async def test_members_of_rooms_that_are_not_collected_are_not_looked_up(self, bench: Bench) -> None:
        bench.sink.not_collected.add("chat-2")
        bench.server.message("m1", room="chat-2")
        await bench.until(lambda: bench.sink.messages)
        assert (bench.sink.messages[0].chat_name, bench.sink.messages[0].sender_name) == ("第二群", "")
        assert (bench.server.calls["RoomMemberPayload"], bench.server.calls["ContactPayload"]) == (0, 0)

    async def test_topic_follows_its_event(self, bench: Bench) -> None:
        bench.server.message("m1")
        await bench.text_of("m1")
        bench.server.event(21, {"roomId": "chat-1", "newTopic": "新群名", "oldTopic": "部署交流群", "changerId": "bob", "timestamp": 1})
        bench.server.message("m2")
        await bench.text_of("m2")
        assert [message.chat_name for message in bench.sink.messages] == ["部署交流群", "新群名"]

    @pytest.mark.parametrize(("kind", "data"), [(27, {"payloadType": 3, "payloadId": "chat-1"}), (21, {"roomId": "chat-1"})])
    async def test_topic_is_asked_for_again_when_the_service_says_only_that_it_changed(self, bench: Bench, kind: int, data: dict[str, object]) -> None:
        bench.server.message("m1")
        await bench.text_of("m1")
        bench.server.topics["chat-1"] = "新群名"
        bench.server.message("m2")
        bench.server.event(kind, data)
        bench.server.message("m3")
        await bench.text_of("m3")
        assert bench.sink.messages[-1].chat_name == "新群名"

    async def test_the_bot_tells_who_it_is_once_it_knows(self, server: LoopbackPuppet) -> None:
        server.logs_in = False
        bench = Bench(server)
        assert bench.adapter.bot_id == ""
        await bench.start()
        server.login()
        await bench.until(lambda: bench.adapter.bot_id == BOT)
        await bench.stop()

    async def test_private_messages_are_ignored(self, bench: Bench) -> None:
        bench.server.message("p1", room="")
        bench.server.message("m1")
        await bench.text_of("m1")
        assert len(bench.sink.messages) == 1

    async def test_echo_is_filtered_before_login_is_known(self, server: LoopbackPuppet) -> None:
        server.logs_in = False
        bench = Bench(server)
        await bench.start()
        await eventually(lambda: server.connected)
        server.message("own", sender=BOT)
        server.message("m1")
        await bench.adapter.send(reply())
        await asyncio.sleep(0.05)
        assert bench.sink.messages == []
        server.login()
        await bench.until(lambda: bench.sink.messages, step=0.0)
        assert bench.sink.ids() == ["m1"]
        await bench.stop()

    async def test_service_that_never_tells_the_login_loses_nothing_and_answers_no_echo(self, server: LoopbackPuppet) -> None:
        server.logs_in = False
        bench = Bench(server)
        await bench.start()
        await eventually(lambda: server.connected)
        await bench.adapter.send(reply("这是机器人的回答"))
        server.message("m1")
        await bench.until(lambda: bench.sink.messages, step=2.0)
        assert bench.sink.ids() == ["m1"]
        await bench.stop()

    @pytest.mark.parametrize(
        ("notice", "target"),
        [
            ("m1", "m1"),
            ('<sysmsg type="revokemsg"><revokemsg><msgid>7</msgid><newmsgid>46006508</newmsgid><replacemsg><![CDATA[x]]></replacemsg></revokemsg></sysmsg>', "46006508"),
        ],
    )
    async def test_recall_names_the_recalled_message(self, bench: Bench, notice: str, target: str) -> None:
        bench.server.message("r1", notice, kind=13)
        await bench.until(lambda: bench.sink.recalls)
        assert (bench.sink.recalls[0].chat_id, bench.sink.recalls[0].message_id) == ("chat-1", target)
        assert bench.sink.messages == []

    async def test_recall_that_names_nothing_is_no_message(self, bench: Bench) -> None:
        bench.server.message("r1", "爱丽丝撤回了一条消息", kind=13)
        bench.server.message("m1")
        await bench.text_of("m1")
        assert (bench.sink.recalls, bench.sink.ids()) == ([], ["m1"])

    async def test_quote_tells_what_it_answers(self, bench: Bench) -> None:
        quoted = "<refermsg><type>1</type><svrid>46006508</svrid><content>mmpose 发布了</content></refermsg>"
        xml = f"<msg><appmsg><title>怎么把它部署到 TX2？</title><type>57</type>{quoted}</appmsg></msg>"
        bench.server.message("m1", xml, kind=14)
        assert await bench.text_of("m1") == "怎么把它部署到 TX2？"
        assert (bench.sink.messages[0].reply_to, bench.sink.messages[0].kind) == ("46006508", MessageKind.TEXT)

    async def test_talk_of_quotations_keeps_its_words(self, bench: Bench) -> None:
        said = "日志里的 <refermsg><svrid>46006508</svrid></refermsg> 怎么解析？"
        bench.server.message("m1", said, kind=7)
        assert await bench.text_of("m1") == said
        assert bench.sink.messages[0].reply_to is None

    async def test_bot_joins_and_leaves_rooms(self, bench: Bench) -> None:
        bench.server.event(19, {"roomId": "chat-1", "inviteeIdList": ["bob"], "inviterId": "alice", "timestamp": 1})
        bench.server.event(19, {"roomId": "chat-2", "inviteeIdList": [BOT], "inviterId": "alice", "timestamp": 1})
        bench.server.event(20, {"roomId": "chat-2", "removeeIdList": [BOT], "removerId": "alice", "timestamp": 1})
        await bench.until(lambda: bench.sink.leaves)
        key = ConversationKey("wechat", "chat-2")
        assert (bench.sink.joins, bench.sink.leaves) == ([(key, "第二群")], [key])

    async def test_message_that_cannot_be_stored_is_stored_later_in_order(self, bench: Bench) -> None:
        bench.sink.errors += [RuntimeError("disk full")] * 3
        bench.server.message("m1")
        bench.server.message("m2")
        await bench.until(lambda: len(bench.sink.messages) == 2)
        assert bench.sink.ids() == ["m1", "m2"]


class TestSending:
    async def test_reply_mentions_the_asker(self, bench: Bench) -> None:
        assert await bench.adapter.send(reply("好了", mention="alice")) == "sent-1"
        assert bench.server.sent == [("chat-1", "@爱丽丝\u2005好了", ("alice",))]

    async def test_hanging_send_has_a_deadline(self, impatient: Bench) -> None:
        impatient.server.hanging.add("MessageSendText")
        with pytest.raises(SendError, match="no answer") as caught:
            await impatient.adapter.send(reply())
        assert not caught.value.permanent

    async def test_a_deadline_that_the_service_sees_first_reads_the_same(self, bench: Bench) -> None:
        bench.server.fail("MessageSendText", Status.DEADLINE_EXCEEDED)
        with pytest.raises(SendError, match="no answer") as caught:
            await bench.adapter.send(reply())
        assert not caught.value.permanent

    async def test_recall_of_an_own_message(self, bench: Bench) -> None:
        await bench.adapter.recall(ROOM, "sent-1")
        assert bench.server.recalled == ["sent-1"]
        bench.server.fail("MessageRecall", Status.NOT_FOUND)
        with pytest.raises(SendError) as caught:
            await bench.adapter.recall(ROOM, "sent-1")
        assert caught.value.permanent

    async def test_owner_and_admins_of_a_room_are_told(self, bench: Bench) -> None:
        assert await bench.adapter.chat_admins(ROOM) == {"olive", "max"}
        bench.server.owners["chat-1"], bench.server.admins = "bob", {}
        assert await bench.adapter.chat_admins(ROOM) == {"olive", "max"}
        bench.server.event(27, {"payloadType": 3, "payloadId": "chat-1"})
        bench.server.message("m1")
        await bench.text_of("m1")
        assert await bench.adapter.chat_admins(ROOM) == {"bob"}
        bench.server.fail("RoomPayload", Status.UNAVAILABLE)
        assert await bench.adapter.chat_admins(ConversationKey("wechat", "chat-2")) == frozenset()

    async def test_groups_are_listed_with_and_without_a_running_bot(self, bench: Bench) -> None:
        expected = [("chat-1", "部署交流群"), ("chat-2", "第二群")]
        assert await bench.adapter.groups() == expected
        assert await WechatyAdapter(WechatSection(endpoint=bench.server.endpoint, token="token")).groups() == expected
        assert bench.server.calls["Start"] == 1
