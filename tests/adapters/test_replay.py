from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.replay import BadLine, read_chat
from core.errors import InputError
from core.messages import Message, MessageKind, Recall

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LINE = {"chat_id": "g1", "sender_id": "u1", "text": "mmpose 支持移动端部署么？", "sent_at": "2026-03-01T09:00:00Z"}


def write(folder: Path, *lines: dict[str, Any] | str | bytes, name: str = "chat.jsonl", end: bytes = b"\n") -> Path:
    path = folder / name
    parts = [line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode("utf-8", "surrogatepass") for line in lines]
    path.write_bytes(b"".join(part + end for part in parts))
    return path


def read(path: Path) -> list[Message | Recall | BadLine]:
    return list(read_chat(path, NOW))


def one(folder: Path, **changes: Any) -> Message | Recall | BadLine:
    (item,) = read(write(folder, {**LINE, **changes}))
    return item


def test_four_fields_are_enough(tmp_path: Path) -> None:
    message = one(tmp_path)
    assert isinstance(message, Message)
    assert (message.platform, message.chat_id, message.sender_id, message.text) == ("replay", "g1", "u1", LINE["text"])
    assert message.sent_at == datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
    assert message.message_id


def test_all_fields_are_read(tmp_path: Path) -> None:
    message = one(tmp_path, platform="feishu", chat_name="部署群", message_id="m1", sender_name="张三", reply_to="m0", kind="image", text="[图片]", mentions=["u2"], thread_id="t1")
    assert message == Message("feishu", "g1", "m1", "u1", "[图片]", datetime(2026, 3, 1, 9, tzinfo=UTC), "部署群", "张三", MessageKind.IMAGE, ("u2",), "m0", "t1")


@pytest.mark.parametrize(
    ("sent_at", "expected"),
    [
        ("2026-03-01T17:00:00+08:00", 9),
        ("2026-03-01 09:00:00", 9),
        (1772355600, 9),
        (1772355600.0, 9),
        (1772355600000, 9),
        ("1772355600", 9),
        ("1772355600123", 9),
    ],
)
def test_times_in_all_forms_are_utc(tmp_path: Path, sent_at: object, expected: int) -> None:
    message = one(tmp_path, sent_at=sent_at)
    assert isinstance(message, Message)
    assert message.sent_at.tzinfo is UTC
    assert message.sent_at.replace(microsecond=0) == datetime(2026, 3, 1, expected, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sent_at": None}, "sent_at is missing"),
        ({"sent_at": "soon"}, "no time"),
        ({"sent_at": True}, "neither text nor number"),
        ({"sent_at": [1]}, "neither text nor number"),
        ({"sent_at": 10**400}, "no time"),
        ({"sent_at": float("nan")}, "no time"),
        ({"sent_at": float("inf")}, "no time"),
        ({"sent_at": "0001-01-01T00:00:00+14:00"}, "no time"),
        ({"sent_at": "9999-12-31T23:59:59-14:00"}, "no time"),
        ({"sent_at": 0}, "before the year 2000"),
        ({"sent_at": "1999-12-31T23:59:59Z"}, "before the year 2000"),
        ({"sent_at": (NOW + timedelta(days=2)).isoformat()}, "in the future"),
        ({"text": ""}, "text is empty"),
        ({"text": " \n\u3000"}, "text is empty"),
        ({"text": None}, "text is missing"),
        ({"text": 5}, "text is no text"),
        ({"chat_id": ""}, "chat_id"),
        ({"chat_id": {"a": 1}}, "chat_id"),
        ({"sender_id": None}, "sender_id"),
        ({"sender_id": True}, "sender_id"),
        ({"kind": 3}, "kind"),
        ({"mentions": "u2"}, "mentions"),
        ({"kind": "recall"}, "reply_to"),
    ],
)
def test_a_line_that_cannot_be_used_says_why(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    bad = one(tmp_path, **changes)
    assert isinstance(bad, BadLine)
    assert bad.number == 1
    assert reason in bad.reason
    assert "移动端" not in bad.reason


def test_bad_lines_are_numbered_and_cost_nothing_else(tmp_path: Path) -> None:
    items = read(
        write(tmp_path, LINE, '{"chat_id": "g1", "sender', "", "[1, 2]", "null", "[" * 100_000, '{"sent_at": ' + "9" * 5000 + "}", b"\xff\xfe\x00garbage", {**LINE, "text": "好的"})
    )
    assert [item.number for item in items if isinstance(item, BadLine)] == [2, 4, 5, 6, 7, 8]
    assert [item.text for item in items if isinstance(item, Message)] == [LINE["text"], "好的"]


def test_duplicate_keys_and_unknown_ones_do_no_harm(tmp_path: Path) -> None:
    (item,) = read(write(tmp_path, '{"chat_id":"g0","chat_id":"g1","sender_id":7,"text":"在吗","sent_at":1772355600,"extra":{"a":[]}}'))
    assert isinstance(item, Message)
    assert (item.chat_id, item.sender_id) == ("g1", "7")


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path, LINE, {**LINE, "text": "好"}, end=b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [item.text for item in read(path) if isinstance(item, Message)] == [LINE["text"], "好"]


def test_odd_characters_arrive_storable_and_the_rest_of_the_text_stays(tmp_path: Path) -> None:
    texts = {"前\\ud800后": "前\ufffd后", "\\ud83d\\ude00": "😀", "a\\u0000b": "a\u2400b", "\u202eשלום": "\u202eשלום", "👨‍👩‍👧": "👨‍👩‍👧", "a\0b": "a\u2400b"}
    path = write(tmp_path, *(f'{{"chat_id":"g","sender_id":"u","text":"{text}","sent_at":1772355600}}' for text in texts))
    assert [item.text for item in read(path) if isinstance(item, Message)] == list(texts.values())


def test_a_message_of_100_kb_is_kept_whole(tmp_path: Path) -> None:
    message = one(tmp_path, text="长" * 50_000 + "吗？")
    assert isinstance(message, Message)
    assert len(message.text) == 50_002


def test_ids_are_the_same_in_each_run_and_differ_for_what_was_said_twice(tmp_path: Path) -> None:
    path = write(tmp_path, LINE, LINE, {**LINE, "sender_id": "u2"}, {**LINE, "message_id": "own"})
    ids = [item.message_id for item in read(path) if isinstance(item, Message)]
    assert len(set(ids)) == 4
    assert ids[3] == "own"
    assert ids == [item.message_id for item in read(path) if isinstance(item, Message)]


def test_a_recall_names_the_message(tmp_path: Path) -> None:
    item = one(tmp_path, kind="recall", reply_to="m7", text=None)
    assert item == Recall("replay", "g1", "m7", datetime(2026, 3, 1, 9, tzinfo=UTC))


def test_pictures_without_text_get_a_place_holder_and_unknown_kinds_are_other(tmp_path: Path) -> None:
    picture, unknown = one(tmp_path, kind="image", text=""), one(tmp_path, kind="hologram")
    assert isinstance(picture, Message)
    assert picture.text == "[图片]"
    assert isinstance(unknown, Message)
    assert unknown.kind is MessageKind.OTHER


def test_irc_log_with_system_lines_actions_and_midnight(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "=== bob has joined #ubuntu",
        "[23:58] <bob> how do i mount it?",
        "[23:59:30] <@alice> bob: mount -a",
        "[00:01] * bob tries",
        "[00:02] === alice has left",
        "no such form",
        "[00:03] <bob> ",
        "[31:00] <bob> late",
        name="ubuntu_2004-11-15.log",
    )
    items = read(path)
    messages = [item for item in items if isinstance(item, Message)]
    assert [(m.sender_id, m.kind, m.text) for m in messages] == [
        ("*", MessageKind.SYSTEM, "=== bob has joined #ubuntu"),
        ("bob", MessageKind.TEXT, "how do i mount it?"),
        ("alice", MessageKind.TEXT, "bob: mount -a"),
        ("bob", MessageKind.TEXT, "tries"),
        ("*", MessageKind.SYSTEM, "=== alice has left"),
    ]
    assert {m.conversation.platform for m in messages} == {"irc"}
    assert messages[1].sent_at == datetime(2004, 11, 15, 23, 58, tzinfo=UTC)
    assert messages[2].sent_at == datetime(2004, 11, 15, 23, 59, 30, tzinfo=UTC)
    assert messages[3].sent_at == datetime(2004, 11, 16, 0, 1, tzinfo=UTC)
    assert [item.number for item in items if isinstance(item, BadLine)] == [6, 7, 8]


def test_raw_wechat_callbacks_pretty_printed_one_after_another(tmp_path: Path) -> None:
    def callback(**data: Any) -> dict[str, Any]:
        return {"messageType": "80001", "wcId": "wxid_bot", "data": {"fromGroup": "1@chatroom", "fromUser": "wxid_a", "content": "怎么部署？", "timestamp": 1772355600, **data}}

    texts = [
        json.dumps(callback(), ensure_ascii=False, indent=2),
        json.dumps(callback(content="花括号 } 和 {"), ensure_ascii=False, indent=4),
        json.dumps(callback(), indent=2)[:-20],
        json.dumps(callback(fromUser="wxid_b", content="一行", newMsgId=77)),
        json.dumps(callback(timestamp=5), indent=2),
        json.dumps(callback(fromGroup=None), indent=2),
        json.dumps(callback(fromUser="wxid_bot"), indent=2),
        json.dumps({"messageType": "80001"}, indent=2),
        json.dumps(callback(content="紧挨", timestamp=1772355700), indent=2) + json.dumps(callback(content="着", timestamp=1772355700), indent=2),
    ]
    items = read(write(tmp_path, *texts, name="callbacks.log"))
    messages = [item for item in items if isinstance(item, Message)]
    assert [message.text for message in messages] == ["怎么部署？", "花括号 } 和 {", "一行", "紧挨", "着"]
    assert {(m.platform, m.chat_id) for m in messages} == {("wechat", "1@chatroom")}
    assert messages[2].message_id == "77"
    assert len({message.message_id for message in messages}) == 5
    assert len([item for item in items if isinstance(item, BadLine)]) == 3


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.jsonl")
    path = tmp_path / "wide.jsonl"
    path.write_bytes(json.dumps(LINE).encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16"):
        read(path)


PIECES = st.sampled_from(
    [b'{"chat_id":"g","sender_id":"u","text":"x","sent_at":1772355600}', b"{", b"}", b"}{", b'{"data":{}}', b"[12:00] <a> b", b"=== x", b'"messageType": 1', b"\xed\xa0\x80", b"\0"]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=60), PIECES), max_size=12), st.sampled_from([b"\n", b"\r\n", b""]))
@example([b"{", b"}{", b"}", b"}"], b"\n")
@example([b'{"data":{}}', b'{"messageType":9}', b"x"], b"\n")
def test_no_bytes_end_the_reading(pieces: list[bytes], end: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chat"
        path.write_bytes(end.join(pieces))
        try:
            items = read(path)
        except InputError:
            assert path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")
            return
    for item in items:
        if isinstance(item, Message):
            (item.text + item.sender_id + item.chat_id + item.message_id).encode("utf-8")
            assert item.text.strip()
