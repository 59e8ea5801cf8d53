"""The dashboard: what it shows, and how it stays up to date without asking the database once for each reader."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from adapters.web.feed import INTERVAL_SECONDS, SPARED_SHARE, Feed
from core.errors import StorageError
from core.ports import Adapter, Health
from storage.dashboard import Snapshot, SqlDashboard
from storage.engine import open_database
from storage.questions import SqlQuestionLog
from tests.adapters.manual_clock import ManualClock, eventually
from tests.adapters.web.site import Browser, Site, open_site
from tests.storage.samples import verdict

SECTIONS = {"funnel", "latest", "health", "groups", "labels", "flips", "models"}


@dataclass
class Stream:
    """A reader of the server-sent events. ``events``: the newest HTML of each section; ``blocks``: all that came, comments too."""

    response: aiohttp.ClientResponse
    events: dict[str, str] = field(default_factory=dict)
    blocks: list[str] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        text = b""
        async for chunk in self.response.content.iter_any():
            text += chunk
            while b"\n\n" in text:
                block, _, text = text.partition(b"\n\n")
                self._take(block.decode())

    def _take(self, block: str) -> None:
        self.blocks.append(block)
        if block.startswith("event: "):
            name, data = block.split("\n", 1)
            self.events[name.removeprefix("event: ")] = json.loads(data.removeprefix("data: "))


@contextlib.asynccontextmanager
async def streaming(browser: Browser) -> AsyncIterator[Stream]:
    async with browser.session.get(f"{browser.address}/dashboard/events") as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        assert "Set-Cookie" not in response.headers
        stream = Stream(response)
        stream.task = asyncio.create_task(stream.follow())
        try:
            yield stream
        finally:
            stream.task.cancel()
            await asyncio.gather(stream.task, return_exceptions=True)


async def test_the_page_tells_what_goes_on(site: Site) -> None:
    await site.ask("怎么把它部署到 TX2？", context=("mmpose 支持移动端么",), probability=0.91, rewrite="怎么把 mmpose 部署到 TX2？")
    flipped = await site.ask("TX2 支持么？", probability=0.2)
    await SqlQuestionLog(site.database).judged(flipped, verdict(0.8, model="newer"))
    async with site.browser("anna") as browser:
        await browser.answer("yes")
        page = await browser.get("/dashboard")
    text = page.text
    assert "3 messages 3 utterances 2 questions 2 need context 1 resolved 0 answered" in text
    assert "怎么把它部署到 TX2？ 怎么把 mmpose 部署到 TX2？ needs context 91% context 1 名字u0 mmpose 支持移动端么" in text
    assert "Changed decisions TX2 支持么？ 20% → 80% needs context newer+group-lora" in text
    assert "1 of 2 labelled Label needs context 1 anna 1 review queue 0 open disagreements 0" in text
    assert "newer+group-lora v1 1" in text
    assert "tiny+group-lora v1 2" in text
    assert "技术群 feishu 3 2" in text


async def test_a_recorded_question_reaches_all_readers_and_only_what_changed_is_sent(site: Site) -> None:
    async with site.browser() as english, site.browser(language="zh") as chinese, streaming(english) as first, streaming(chinese) as second:
        await eventually(lambda: SECTIONS == set(first.events) == set(second.events))
        assert "No question is logged yet" in first.events["latest"]
        assert "还没有提问" in second.events["latest"]
        await site.clock.advance(INTERVAL_SECONDS)
        await eventually(lambda: first.blocks[-1] == second.blocks[-1] == ":")  # nothing new: only a sign of life
        await site.ask("怎么把它部署到 TX2？")
        sent = len(first.blocks)
        await site.clock.advance(INTERVAL_SECONDS)
        await eventually(lambda: all("部署到 TX2" in stream.events["latest"] for stream in (first, second)))
        changed = {block.split("\n")[0].removeprefix("event: ") for block in first.blocks[sent:]}
        assert changed == {"funnel", "latest", "health", "groups", "labels"}


async def test_the_adapters_of_the_bot_and_an_unusable_database_show_under_health(tmp_path: Path) -> None:
    adapters: Mapping[str, Adapter] = {"feishu": BrokenAdapter()}
    async with open_site(tmp_path / "d.db", adapters=adapters) as site, site.browser() as browser, streaming(browser) as stream:
        await eventually(lambda: "health" in stream.events)
        assert "the token was refused" in stream.events["health"]
        async with site.database.read() as connection:
            await connection.exec_driver_sql("PRAGMA query_only = OFF")
            await connection.exec_driver_sql("ALTER TABLE chats RENAME TO away")
            await eventually(lambda: "a statement was refused" in stream.events["health"], tick=lambda: site.clock.advance(INTERVAL_SECONDS))
            await connection.exec_driver_sql("ALTER TABLE away RENAME TO chats")
        await eventually(lambda: "a statement was refused" not in stream.events["health"], tick=lambda: site.clock.advance(INTERVAL_SECONDS))


class BrokenAdapter:
    """Just its health is asked for."""

    def health(self) -> Health:
        return Health(False, "the token was refused")


@pytest.fixture
async def snapshot(tmp_path: Path) -> Snapshot:
    database = await open_database(f"sqlite:///{tmp_path / 'snapshot.db'}")
    taken = await SqlDashboard(database).snapshot(ManualClock().now())
    await database.close()
    return taken


@dataclass
class Reader:
    """Counts how often it is read; each reading takes ``seconds`` of the clock."""

    clock: ManualClock
    snapshot: Snapshot
    seconds: float = 0.0
    reads: int = 0
    fails: bool = False

    async def __call__(self) -> Snapshot:
        self.reads += 1
        if self.fails:
            raise StorageError("sqlite:///d.db", "the disk is full", "Free some space")
        await self.clock.sleep(self.seconds)
        return self.snapshot


async def test_one_loop_reads_for_all_and_rests_when_nobody_looks(snapshot: Snapshot) -> None:
    clock = ManualClock()
    reader = Reader(clock, snapshot)
    feed = Feed(reader, clock)
    assert not feed.running
    async with feed.follow() as one:
        assert (await asyncio.wait_for(one.next(), 5)).snapshot is snapshot  # type: ignore[union-attr]
        async with feed.follow() as late, feed.follow() as _slow:
            assert (await asyncio.wait_for(late.next(), 5)).snapshot is snapshot  # type: ignore[union-attr]
            assert (reader.reads, feed.followers) == (1, 3)
            for _ in range(4):
                await clock.advance(INTERVAL_SECONDS)
            assert reader.reads == 5
        assert (feed.followers, feed.running) == (1, True)
        reader.fails = True
        await clock.advance(INTERVAL_SECONDS)
        reading = await asyncio.wait_for(one.next(), 5)
        assert reading is not None
        assert reading.snapshot is snapshot
        assert reading.problem is not None
    assert (feed.followers, feed.running) == (0, False)
    await clock.advance(60)
    assert reader.reads == 6


async def test_a_large_log_is_read_less_often(snapshot: Snapshot) -> None:
    clock = ManualClock()
    reader = Reader(clock, snapshot, seconds=1.0)
    feed = Feed(reader, clock)
    async with feed.follow():
        await asyncio.sleep(0)
        for _ in range(23):
            await clock.advance(1.0)
        assert reader.reads == 1 + int(23 / (1 + SPARED_SHARE))


async def test_readers_that_go_are_forgotten_and_those_who_stay_are_let_go_when_the_server_stops(site: Site) -> None:
    async with site.browser() as browser, site.browser() as other, streaming(browser) as stays:
        async with streaming(other) as goes:
            await eventually(lambda: SECTIONS == set(stays.events) == set(goes.events))
        await other.session.close()
        await eventually(lambda: len(stays.blocks) > len(SECTIONS) + 3, tick=lambda: site.clock.advance(INTERVAL_SECONDS))
        await site.server.stop()
        assert stays.task is not None
        await asyncio.wait_for(stays.task, 20)  # the stream ended in order: a cut one raises
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "dashboard-feed"]


async def test_a_closed_feed_ends_whoever_comes_late(snapshot: Snapshot) -> None:
    feed = Feed(Reader(ManualClock(), snapshot), ManualClock())
    await feed.close()
    async with feed.follow() as late:
        assert await asyncio.wait_for(late.next(), 5) is None
