from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from core.config import load_config
from core.errors import StorageError
from core.groups import Groups
from core.ingest import DropReason, Ingest
from core.messages import ConversationKey, Recall
from tests.core.house import GROUP, NOTICE, House, open_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "d.db") as house:
        yield house


async def test_a_message_is_stored_when_message_returns_and_then_published_once(house: House) -> None:
    message = house.message(1, "你好\0\ud83d\ude00")
    await house.ingest.message(message)
    assert await house.texts() == ["你好␀😀"]
    await house.ingest.message(message)
    await house.bus.drain()
    assert [(event.message.text, event.live) for event in house.stored] == [("你好␀😀", True)]
    counts = house.ingest.counts["feishu"]
    assert (counts.received, counts.stored, counts.duplicates) == (2, 1, 1)


async def test_without_groups_nothing_is_collected_and_the_log_tells_once_how_to(tmp_path: Path) -> None:
    async with open_house(tmp_path / "d.db", allowed=()) as house:
        with capture_logs() as logs:
            for number in range(3):
                await house.say(number, "秘密")
        told = [entry for entry in logs if entry["event"] == "group_not_collected"]
        assert [(entry["log_level"], entry["group"], entry["name"], "[bot] groups" in entry["remedy"]) for entry in told] == [("warning", "g1", "技术群", True)]
        assert "秘密" not in str(logs)
        assert await house.inbox.count() == 0
        assert house.stored == []
        assert house.ingest.counts["feishu"].dropped[DropReason.GROUP_NOT_ALLOWED] == 3


async def test_what_the_log_says_to_add_collects_a_group_whose_name_holds_a_comma(tmp_path: Path) -> None:
    async with open_house(tmp_path / "d.db", allowed=()) as house:
        with capture_logs() as logs:
            await house.say(1, chat="算法，部署交流群")
    (remedy,) = [entry["remedy"] for entry in logs if entry["event"] == "group_not_collected"]
    added = remedy.removeprefix("to collect it, add ").removesuffix(" to [bot] groups")
    async with open_house(tmp_path / "d.db", allowed=load_config(None, {}, bot={"groups": f"oc_1, {added}"}).bot.groups) as house:
        await house.say(2, chat="算法，部署交流群")
        assert await house.texts("算法，部署交流群") == ["消息 2"]


async def test_adapters_are_told_which_groups_are_collected(house: House) -> None:
    assert house.ingest.collects(GROUP)
    assert not house.ingest.collects(ConversationKey("feishu", "elsewhere"))
    await house.groups.switch(GROUP, enabled=False)
    assert not house.ingest.collects(GROUP)


async def test_collect_all_takes_every_group(house: House) -> None:
    ingest = Ingest(house.inbox, house.bus, Groups(house.store, ()), house.consent, collect_all=True)
    assert ingest.collects(ConversationKey("feishu", "anywhere"))
    await ingest.message(house.message(1, chat="anywhere"))
    assert await house.texts("anywhere") == ["消息 1"]


async def test_a_group_may_be_named_with_its_platform(tmp_path: Path) -> None:
    async with open_house(tmp_path / "d.db", allowed=("feishu:g1", "wechat:g2")) as house:
        await house.say(1)
        await house.say(2, chat="g2")
        assert [event.message.chat_id for event in house.stored] == ["g1"]


async def test_members_who_opted_out_and_our_own_bots_are_neither_stored_nor_published(house: House) -> None:
    await house.consent.opt_out("feishu", "u-shy")
    house.ingest.ignore_sender("feishu", "u-bot")
    await house.say(1, sender="u-shy")
    await house.say(2, sender="u-bot")
    await house.say(3, "/dj off", sender="u-bot")
    await house.say(4)
    assert await house.texts() == ["消息 4"]
    assert [event.message.message_id for event in house.stored] == ["m4"]
    assert house.ingest.counts["feishu"].dropped == {DropReason.OPTED_OUT: 1, DropReason.OWN: 2}


async def test_who_opted_out_is_not_stored_as_one_whom_others_mention(house: House) -> None:
    await house.consent.opt_out("feishu", "u-shy")
    await house.ingest.message(replace(house.message(1, "@害羞 @小波 怎么看？"), mentions=("u-shy", "u-bo")))
    await house.ingest.message(replace(house.message(2, "@害羞 在吗"), mentions=("u-shy",)))
    await house.bus.drain()
    assert [message.mentions for message in await house.inbox.recent(GROUP, 10)] == [("u-bo",), ()]
    assert [event.message.mentions for event in house.stored] == [("u-bo",), ()]


@pytest.mark.parametrize("restarted", [False, True])
async def test_words_of_who_opted_out_are_not_stored_where_others_quote_them_as_text(tmp_path: Path, restarted: bool) -> None:
    said = "「{}：我住在三号楼」\n- - - - - - - - - - - - - - -\n离地铁近吗？"
    async with open_house(tmp_path / "d.db") as house:
        await house.say(1, "/dj opt out", sender="u-shy")
        if not restarted:
            await house.say(2, said.format("名字u-shy"))
            assert await house.texts() == ["离地铁近吗？"]
    async with open_house(tmp_path / "d.db") as house:
        await house.say(3, "我住在三号楼", sender="u-shy")
        for number, quoted in enumerate(("名字u-shy", "u-shy", "名字u9"), 4):
            await house.say(number, said.format(quoted))
        assert (await house.texts())[-3:] == ["离地铁近吗？", "离地铁近吗？", said.format("名字u9")]


async def test_bulk_returns_how_many_were_new_and_carries_out_no_commands(house: House) -> None:
    batch = [house.message(1), house.message(2, "/dj off", sender="boss"), house.message(3), house.message(1)]
    assert await house.ingest.messages(batch) == 2
    assert await house.ingest.messages(batch) == 0
    await house.bus.drain()
    assert [(event.message.message_id, event.live) for event in house.stored] == [("m1", False), ("m3", False)]
    assert house.groups.enabled(GROUP)
    counts = house.ingest.counts["feishu"]
    assert (counts.stored, counts.duplicates, counts.dropped[DropReason.COMMAND]) == (2, 4, 2)


async def test_a_recall_erases_and_tells_the_pipeline_also_when_it_comes_first(house: House) -> None:
    await house.say(1, "说错了")
    await house.ingest.recall(Recall("feishu", "g1", "m1", house.clock.now()))
    await house.ingest.recall(Recall("feishu", "g1", "m2", house.clock.now()))
    await house.say(2, "更早撤回的")
    assert await house.texts() == []
    assert house.recalled == ["m1", "m2"]
    assert len(house.stored) == 1
    assert house.ingest.counts["feishu"].recalled == 1


async def test_a_recall_erases_the_same_words_under_another_id_too(house: House) -> None:
    for number, text, sender in ((1, "我的密码", "u1"), (2, "我的密码", "u1"), (3, "我的密码", "u2")):
        await house.say(number, text, sender=sender)
    await house.clock.advance(11)
    await house.say(4, "我的密码")
    await house.ingest.recall(Recall("feishu", "g1", "m2", house.clock.now()))
    assert [message.message_id for message in await house.inbox.recent(GROUP, 10)] == ["m3", "m4"]
    await house.bus.drain()
    assert house.recalled == ["m1", "m2"]
    assert house.ingest.counts["feishu"].recalled == 2


async def test_a_recall_erases_also_in_a_group_that_is_allowed_no_more_and_leaves_no_trace_in_others(tmp_path: Path) -> None:
    async with open_house(tmp_path / "d.db") as house:
        await house.say(1, "说错了")
    async with open_house(tmp_path / "d.db", allowed=()) as house:
        for chat, message_id in (("g1", "m1"), ("g9", "m9")):
            await house.ingest.recall(Recall("feishu", chat, message_id, house.clock.now()))
        await house.bus.drain()
        assert await house.texts() == []
        assert house.recalled == ["m1"]
        async with house.database.read() as connection:
            assert (await connection.execute(sa.text("SELECT message_id FROM messages"))).scalars().all() == ["m1"]


async def test_the_notice_is_posted_once_in_the_life_of_a_group(tmp_path: Path) -> None:
    for _ in range(2):
        async with open_house(tmp_path / "d.db", notice=NOTICE) as house:
            for _ in range(2):
                await house.ingest.joined(GROUP, "技术群")
                await house.ingest.left(GROUP)
            await house.ingest.joined(ConversationKey("feishu", "not-allowed"), "别的群")
            claimed = await house.outbox.claim("feishu")
    assert claimed == []
    async with open_house(tmp_path / "d.db") as house:
        stored = await house.outbox.get("notice:feishu:g1")
        assert stored is not None
        assert (stored.reply.text, stored.attempts) == (NOTICE, 1)
        assert await house.outbox.get("notice:feishu:not-allowed") is None


async def test_a_group_that_is_allowed_after_the_bot_joined_gets_the_notice_before_its_first_message_is_stored(tmp_path: Path) -> None:
    async with open_house(tmp_path / "d.db", allowed=(), notice=NOTICE) as house:
        await house.ingest.joined(GROUP, "技术群")
        await house.say(1, "还没有收集")
        assert await house.outbox.claim("feishu") == []
    for number in (2, 3):
        async with open_house(tmp_path / "d.db", notice=NOTICE) as house:
            await house.ingest.message(house.message(number, chat="not-allowed"))
            await house.consent.opt_out("feishu", "u-shy")
            await house.say(10 * number, sender="u-shy")
            assert (await house.outbox.get("notice:feishu:g1") is None) == (number == 2)
            await house.say(number, "收集了")
            await house.say(100 * number, "这句也是")
            stored = await house.outbox.get("notice:feishu:g1")
            assert stored is not None
            assert stored.reply.text == NOTICE
            assert await house.outbox.get("notice:feishu:not-allowed") is None
            claimed = await house.outbox.claim("feishu")
            assert [reply.reply.text for reply in claimed] == ([NOTICE] if number == 2 else [])


async def test_a_notice_that_cannot_be_queued_leaves_the_message_with_the_platform(tmp_path: Path) -> None:
    """Nothing is collected from a group that was not told."""
    async with open_house(tmp_path / "d.db", notice=NOTICE) as house:
        with closing(sqlite3.connect(tmp_path / "d.db")) as breaker:
            breaker.execute("ALTER TABLE replies RENAME TO gone")
            breaker.commit()
            with pytest.raises(StorageError):
                await house.say(1)
            assert await house.texts() == []
            breaker.execute("ALTER TABLE gone RENAME TO replies")
            breaker.commit()
        await house.say(1)
        assert await house.texts() == ["消息 1"]
        assert await house.outbox.get("notice:feishu:g1") is not None


async def test_what_cannot_be_stored_is_reported_so_that_it_is_not_acknowledged(tmp_path: Path) -> None:
    async with open_house(tmp_path / "d.db") as house:
        breaker = sqlite3.connect(tmp_path / "d.db")
        breaker.execute("DROP TABLE messages")
        breaker.commit()
        breaker.close()
        with pytest.raises(StorageError):
            await house.ingest.message(house.message(1))
        assert house.stored == []
        assert house.ingest.counts["feishu"].failed == 1


async def test_a_command_line_is_never_stored_whatever_it_says(house: House) -> None:
    for number, text in enumerate(["/dj help", "/豆解 帮助", "／ＤＪ  ｈｅｌｐ", "@豆解 /dj nonsense", "/dj 我的密码是 hunter2"]):
        await house.say(number, text)
    assert await house.texts() == []
    assert house.stored == []


async def test_a_picture_with_a_slash_in_its_place_holder_is_no_command(house: House) -> None:
    from core.messages import MessageKind

    await house.ingest.message(replace(house.message(1, "/dj off"), kind=MessageKind.FILE, sender_id="boss"))
    assert house.groups.enabled(GROUP)
    assert await house.texts() == ["/dj off"]
