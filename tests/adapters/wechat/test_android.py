"""The Android app's format, byte for byte as installed apps send and read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from adapters.wechat.android import AndroidAdapter
from core.config import WechatSection
from core.errors import SendError
from core.messages import ConversationKey, MessageKind
from core.ports import OutgoingReply
from tests.adapters.manual_clock import ManualClock, eventually
from tests.adapters.recording_sink import RecordingSink

GROUP = "茴香豆（大暑群）"


class Phone:
    def __init__(self, wcid: str = "豆解") -> None:
        self.clock, self.sink = ManualClock(), RecordingSink()
        self.adapter = AndroidAdapter(WechatSection(provider="android", listen="127.0.0.1:0", secret="s", wcid=wcid), self.clock)

    async def post(self, kind: str, content: str | None = None, *, query_id: str = "q", group: str = GROUP, user: str = "tpoisonooo", status: int = 200) -> Any:
        query = {"type": kind} if content is None else {"type": kind, "content": content}
        host, port = self.adapter.address or ("", 0)
        body = {"query_id": query_id, "groupname": group, "username": user, "query": query}
        async with aiohttp.ClientSession() as session, session.post(f"http://{host}:{port}/s", json=body) as response:
            assert response.status == status
            return await response.json()

    async def say(self, text: str = "你好，请问如何安装 mmpose ?", **fields: str) -> None:
        assert await self.post("text", text, **fields) == {"msg": "ok", "msgCode": "10000", "data": []}

    def reply(self, text: str, key: str = "k", *, group: str = GROUP, reply_to: str | None = None, mention: str | None = None) -> None:
        self.sink.waiting.append(OutgoingReply(ConversationKey("wechat", group), text, key, reply_to, mention))

    def ids(self) -> list[str]:
        return [message.message_id for message in self.sink.messages]


@pytest.fixture
async def phone() -> AsyncIterator[Phone]:
    phone = Phone()
    await phone.adapter.start(phone.sink)
    yield phone
    await phone.adapter.stop()


async def test_text_and_image_become_messages(phone: Phone) -> None:
    await phone.say()
    await phone.post("image", "https://oss.example/1.jpg")
    text, image = phone.sink.messages
    assert (text.chat_id, text.chat_name, text.sender_id, text.sender_name, text.text) == (GROUP, GROUP, "tpoisonooo", "tpoisonooo", "你好，请问如何安装 mmpose ?")
    assert text.sent_at == phone.clock.now()
    assert (image.kind, image.text) == (MessageKind.IMAGE, "[图片]")


@pytest.mark.parametrize("wcid", ["豆解", "Dou Jie 机器人"])
async def test_the_bots_own_mention_is_no_part_of_the_text_and_others_are(wcid: str) -> None:
    phone = Phone(wcid)
    await phone.adapter.start(phone.sink)
    for text in (f"@{wcid}\u2005怎么部署？", f"@{wcid} /dj 关", f"@老周\u2005问 @{wcid}", f"@{wcid}们\u2005在吗"):
        await phone.say(text)
    assert [message.text for message in phone.sink.messages] == ["怎么部署？", "/dj 关", "@老周 问", f"@{wcid}们 在吗"]
    await phone.adapter.stop()


async def test_poll_answers_waiting_replies_once_with_their_request(phone: Phone) -> None:
    await phone.say("第一问")
    await phone.say("第二问", query_id="q2")
    phone.reply("答案一", "k1", reply_to=phone.ids()[0])
    phone.reply("答案二", "k2")
    answer = await phone.post("poll")
    request = {"query_id": "q", "groupname": GROUP, "username": "tpoisonooo", "query": {"type": "text", "content": "第一问"}}
    assert answer["msg"] == "ok"
    assert answer["msgCode"] == "10000"
    assert answer["data"][0] == {"req": request, "rsp": {"code": 0, "state": "success", "text": "答案一", "references": []}}
    assert (answer["data"][1]["req"]["query_id"], answer["data"][1]["rsp"]["text"]) == ("q2", "答案二")
    assert (await phone.post("poll"))["data"] == []


async def test_poll_gets_only_the_replies_of_its_group(phone: Phone) -> None:
    phone.reply("给别的群", group="别的群", mention="白露")
    assert (await phone.post("poll"))["data"] == []
    answer = await phone.post("poll", group="别的群(128)")
    assert answer["data"][0]["req"] == {"query_id": "别的群", "groupname": "别的群", "username": "白露", "query": {"type": "text", "content": ""}}


async def test_poll_that_names_no_group_gets_the_replies_of_all(phone: Phone) -> None:
    phone.reply("给甲群", "k1", group="甲群")
    phone.reply("给乙群", "k2", group="乙群")
    answer = await phone.post("poll", group="")
    assert [(item["req"]["groupname"], item["rsp"]["text"]) for item in answer["data"]] == [("甲群", "给甲群"), ("乙群", "给乙群")]
    assert (await phone.post("poll", group=""))["data"] == []


async def test_what_a_phone_that_hung_up_did_not_get_waits_on(phone: Phone) -> None:
    phone.reply("答案")
    phone.sink.hold()
    polling = asyncio.create_task(phone.post("poll"))
    await eventually(lambda: phone.sink.entered == 1)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    await asyncio.sleep(0.05)
    phone.sink.release()
    assert [item["rsp"]["text"] for item in (await phone.post("poll"))["data"]] == ["答案"]


async def test_nothing_can_be_sent_to_the_phone(phone: Phone) -> None:
    with pytest.raises(SendError) as caught:
        await phone.adapter.send(OutgoingReply(ConversationKey("wechat", GROUP), "答案", "k"))
    assert caught.value.permanent


async def test_same_query_id_with_the_same_words_is_one_message(phone: Phone) -> None:
    await phone.say()
    await phone.clock.advance(3600)
    await phone.say()
    await phone.say("另一句话")
    first, again, other = phone.ids()
    assert first == again != other


async def test_query_id_that_is_the_group_name_identifies_no_message(phone: Phone) -> None:
    """The released app sends the group's name as query_id: then content and time make the id."""
    await phone.say("还是不行", query_id=GROUP)
    await phone.say("还是不行", query_id=GROUP)
    await phone.clock.advance(61)
    await phone.say("还是不行", query_id=GROUP)
    first, pushed_again, later = phone.ids()
    assert first == pushed_again != later


async def test_a_group_name_is_known_again_between_white_space(phone: Phone) -> None:
    for _ in range(2):
        await phone.say("好的", query_id=" 大暑群(128)", group=" 大暑群(128)")
        await phone.clock.advance(3600)
    first, later = phone.ids()
    assert first != later


async def test_ids_are_the_same_after_a_restart(phone: Phone) -> None:
    await phone.say()
    other = Phone()
    await other.adapter.start(other.sink)
    await other.say()
    await other.adapter.stop()
    assert phone.ids() == other.ids()


async def test_half_a_surrogate_pair_is_taken_and_storable(phone: Phone) -> None:
    """A name or a text that was cut inside an emoji: refused, it would be lost."""
    await phone.say("装好了\ud83d", user="白露\ud83d")
    (message,) = phone.sink.messages
    assert (message.text, message.sender_id, message.sender_name) == ("装好了\ufffd", "白露\ufffd", "白露\ufffd")


async def test_message_count_in_the_title_does_not_split_the_group(phone: Phone) -> None:
    await phone.say(group="ncnn 交流群(499)")
    await phone.say("新人来了", group="ncnn 交流群(500)")
    assert {message.chat_id for message in phone.sink.messages} == {"ncnn 交流群"}


async def test_own_lines_on_the_screen_are_not_delivered(phone: Phone) -> None:
    await phone.say("我是机器人", user="豆解")
    await phone.say("怎么把它部署到 TX2？")
    phone.reply("怎么把 mmpose 部署到 TX2？")
    await phone.post("poll")
    await phone.say("怎么把它部署到 TX2？\n---\n怎么把 mmpose 部署到 TX2？", query_id="x")
    await phone.say("怎么把 mmpose 部署到 TX2？", query_id="y")
    assert [message.text for message in phone.sink.messages] == ["怎么把它部署到 TX2？"]


@pytest.mark.parametrize(("kind", "fields"), [("voice", {}), ("text", {"group": ""}), ("text", {"user": ""})])
async def test_what_the_format_requires(phone: Phone, kind: str, fields: dict[str, str]) -> None:
    await phone.post(kind, "内容", status=400, **fields)  # type: ignore[arg-type]
    await phone.post("text", "", status=400)
    assert phone.sink.messages == []


async def test_recall_is_not_possible(phone: Phone) -> None:
    with pytest.raises(SendError) as caught:
        await phone.adapter.recall(ConversationKey("wechat", GROUP), "m")
    assert caught.value.permanent
    assert await phone.adapter.groups() == []
