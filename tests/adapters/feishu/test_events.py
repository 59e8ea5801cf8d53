"""Golden payloads of the platform, and the message that each becomes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters.feishu.events import BotIdentity, GroupEvent, Ignored, Joined, Left, NewMessage, Renamed, parse_event
from core.messages import ConversationKey, Message, MessageKind, Recall
from tests.adapters.feishu.payloads import GOLDEN, golden, text_event

BOT = BotIdentity("cli_test", "ou_bot")
NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
GROUP = ConversationKey("feishu", "oc_group")


def parsed(payload: object, bot: BotIdentity = BOT) -> GroupEvent | Ignored:
    return parse_event(payload, bot, NOW)


def message(name: str) -> Message:
    event = parsed(golden(name))
    assert isinstance(event, NewMessage)
    return event.message


def test_a_text_message_has_every_field() -> None:
    assert message("text_reply") == Message(
        platform="feishu",
        chat_id="oc_group",
        message_id="om_3",
        sender_id="ou_alice",
        text="怎么把它部署到 TX2？",
        sent_at=datetime(2026, 3, 2, 9, 0, 0, 123000, tzinfo=UTC),
        reply_to="om_2",
        thread_id="om_1",
    )


def test_a_topic_keeps_its_own_thread() -> None:
    assert (message("text_topic").reply_to, message("text_topic").thread_id) == ("om_3", "omt_9")


def test_the_longest_mention_is_replaced_first_and_names_are_not_replaced_again() -> None:
    event = parsed(golden("text_mentions_ten"))
    assert isinstance(event, NewMessage)
    assert event.message.text == "@一号 问 @十号 和 @@_user_1：怎么部署？"
    assert event.message.mentions == ("ou_one", "ou_two", "ou_ten")
    assert dict(event.names)["ou_ten"] == "十号"


def test_the_bots_own_mention_is_not_part_of_the_text() -> None:
    assert message("text_mentions_bot").text == "/dj help"
    assert message("text_mentions_bot").mentions == ("ou_bot",)


def test_everybody_is_a_mention() -> None:
    assert message("text_everybody").text == "@所有人 明天开会"
    assert message("text_everybody").mentions == ("all",)


def test_rich_text_is_flattened() -> None:
    assert message("post").text == "安装报错\n第一行 日志 https://example.org/log @一号 [表情]\n[图片]\nimport mmcv\n@所有人 谁遇到过？"
    assert message("post").kind is MessageKind.TEXT
    assert message("post").mentions == ("ou_one", "all")
    assert message("post_localised").text == "**粗体** 内容"


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("image", MessageKind.IMAGE, "[图片]"),
        ("file", MessageKind.FILE, "[文件] train.log"),
        ("audio", MessageKind.AUDIO, "[语音]"),
        ("video", MessageKind.VIDEO, "[视频]"),
        ("sticker", MessageKind.STICKER, "[表情]"),
        ("merge_forward", MessageKind.OTHER, "[聊天记录]"),
        ("share_user", MessageKind.OTHER, "[个人名片]"),
        ("location", MessageKind.OTHER, "[位置] 知春路"),
        ("system", MessageKind.SYSTEM, "[系统消息]"),
        ("unknown_type", MessageKind.OTHER, "[其他消息]"),
        ("text_broken_content", MessageKind.OTHER, "[其他消息]"),
    ],
)
def test_other_kinds_have_a_place_holder(name: str, kind: MessageKind, text: str) -> None:
    assert (message(name).kind, message(name).text) == (kind, text)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("card", Ignored.CARD),
        ("own", Ignored.OWN),
        ("private", Ignored.NOT_A_GROUP),
        ("reaction", Ignored.OTHER_TYPE),
        ("schema_1", Ignored.OTHER_TYPE),
    ],
)
def test_what_is_not_for_us_is_ignored_with_a_reason(name: str, reason: Ignored) -> None:
    assert parsed(golden(name)) is reason


def test_no_app_is_listened_to_until_the_bot_knows_itself() -> None:
    for sender_type in ("app", "bot"):
        echo = golden("own")
        echo["event"]["sender"]["sender_type"] = sender_type
        assert parsed(echo, BotIdentity("cli_test")) is Ignored.OWN


def test_events_of_the_group() -> None:
    assert parsed(golden("recalled")) == Recall("feishu", "oc_group", "om_1", datetime(2026, 3, 2, 9, 1, tzinfo=UTC))
    assert parsed(golden("bot_added")) == Joined(GROUP, "部署讨论")
    assert parsed(golden("bot_deleted")) == Left(GROUP)
    dissolved = golden("bot_deleted")
    dissolved["header"]["event_type"] = "im.chat.disbanded_v1"
    assert parsed(dissolved) == Left(GROUP)
    assert parsed(golden("chat_renamed")) == Renamed(GROUP, "新名")


def test_half_a_surrogate_pair_and_nul_become_storable() -> None:
    event = parsed(text_event("om_1", content='{"text": "a\\ud83d b\\u0000c"}'))
    assert isinstance(event, NewMessage)
    assert event.message.text == "a? bc"
    event.message.text.encode()


def test_a_message_without_a_time_gets_the_events() -> None:
    event = parsed(text_event("om_1", create_time="soon"))  # type: ignore[arg-type]
    assert isinstance(event, NewMessage)
    assert event.message.sent_at == datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_no_part_of_a_payload_is_taken_for_granted(path: Any) -> None:
    """Each value of each payload is replaced by something of another type, or left out: there may be less to say, but nothing raises."""

    def broken(value: Any) -> Any:
        yield from (None, 7, "x", [], [7], {})
        if isinstance(value, dict):
            for key in value:
                yield {other: inner for other, inner in value.items() if other != key}
                for inner in broken(value[key]):
                    yield {**value, key: inner}
        elif isinstance(value, list):
            for index, item in enumerate(value):
                for inner in broken(item):
                    yield [*value[:index], inner, *value[index + 1 :]]

    payload = json.loads(path.read_text(encoding="utf-8"))
    content = payload["event"].get("message", {}).get("content", "")
    for variant in broken(payload):
        parsed(variant)
    if content.startswith("{") and not content.startswith("{not"):
        for variant in broken(json.loads(content)):
            changed = {**payload["event"]["message"], "content": json.dumps(variant)}
            event = parsed({**payload, "event": {**payload["event"], "message": changed}})
            assert isinstance(event, NewMessage | Ignored)
