from __future__ import annotations

import asyncio

from storage.announcements import SqlAnnouncements
from storage.engine import Database, open_database
from tests.storage.samples import StillClock


async def test_what_is_named_is_remembered_in_order_until_it_is_settled(database: Database) -> None:
    announcements = SqlAnnouncements(database)
    for message_id in ("m2", "m1", "m3", "m2"):
        await announcements.add("wechat", message_id)
    await announcements.add("feishu", "m1")
    await announcements.settle("wechat", "m1")
    await announcements.settle("wechat", "never named")
    assert await announcements.unsettled("wechat") == ["m2", "m3"]
    assert await announcements.unsettled("feishu") == ["m1"]


async def test_many_at_once_are_one_write_and_none_is_lost(database: Database) -> None:
    announcements = SqlAnnouncements(database)
    names = [f"m{number}" for number in range(200)]
    await asyncio.gather(*(announcements.add("wechat", name) for name in names))
    assert await announcements.unsettled("wechat") == names
    await asyncio.gather(*(announcements.settle("wechat", name) for name in names))
    assert await announcements.unsettled("wechat") == []


async def test_it_outlives_a_restart(url: str) -> None:
    first = await open_database(url)
    await SqlAnnouncements(first).add("wechat", "m1")
    await first.close()
    second = await open_database(url)
    assert await SqlAnnouncements(second).unsettled("wechat") == ["m1"]
    await second.close()


async def test_what_no_platform_can_still_have_is_given_up(database: Database, clock: StillClock) -> None:
    announcements = SqlAnnouncements(database)
    await announcements.add("wechat", "old")
    clock.forward(hours=20)
    await announcements.add("wechat", "new")
    await announcements.add("wechat", "old")  # named again: its age counts from the first time
    clock.forward(hours=5)
    assert await announcements.unsettled("wechat") == ["new"]
