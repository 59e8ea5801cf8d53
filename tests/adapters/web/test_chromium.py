"""The pages in a real Chromium, by keyboard alone."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from adapters.web.feed import INTERVAL_SECONDS
from storage.labelling import REPEAT_EVERY
from tests.adapters.web import chromium as chromium_module
from tests.adapters.web.chromium import TIMEOUT_MS, open_chromium, open_page, press, require_chromium, shown_question
from tests.adapters.web.site import Site, open_site

pytestmark = pytest.mark.asyncio(loop_scope="module")
expect.set_options(timeout=TIMEOUT_MS)
ESCAPE = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true})); document.activeElement.tagName"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with open_chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path / "pages.db") as site:
        yield site


@contextlib.asynccontextmanager
async def time_passing(site: Site) -> AsyncIterator[None]:
    """The pages' clock goes on, so that the dashboard looks again and again."""

    async def tick() -> None:
        while True:
            await site.clock.advance(INTERVAL_SECONDS)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def say_who(page: Page, name: str) -> None:
    """The page puts the cursor into the field."""
    await expect(page.locator("input[name=name]")).to_be_focused()
    await page.keyboard.type(name)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#answer")


async def test_thirty_items_by_keyboard_alone(chromium: Browser, site: Site) -> None:
    questions = [await site.ask(f"怎么部署 {number}？", context=("mmpose 支持移动端么",), probability=0.5) for number in range(32)]
    async with open_page(chromium, site) as (page, complaints):
        await say_who(page, "安娜")
        assert await shown_question(page) == questions[-1]
        for number in range(30):
            await press(page, "jki"[number % 3])
        await expect(page.locator("#progress")).to_contain_text("已标 29 / 32")  # one of the thirty was a second look
        await press(page, "u")
        await expect(page.locator("#progress")).to_contain_text("已标 28 / 32")
        await press(page, "j")
        await page.keyboard.press("?")
        await expect(page.locator("#guide")).to_be_visible()
        await page.keyboard.press("j")  # answers nothing while the guide is open
        await page.keyboard.press("?")
        await expect(page.locator("#guide")).to_be_hidden()
        await page.keyboard.press("Control+j")
        assert complaints == []
    given = [label for question in questions for label in await site.labels(question)]
    assert len(given) == 30
    assert {name for name, _, _ in given} == {"安娜"}
    values = [(await site.labels(question))[0][1] for question in reversed(questions[-REPEAT_EVERY + 1 :])]
    assert values == [("yes", "no", "not_question")[number % 3] for number in range(REPEAT_EVERY - 1)]


async def test_a_rewrite_is_edited_by_keyboard_and_undone(chromium: Browser, site: Site) -> None:
    older, question = await site.ask("别的？"), await site.ask("怎么把它部署到 TX2？", probability=0.93, rewrite="怎么把 mmpose 部署到 TX2？")
    async with open_page(chromium, site) as (page, complaints):
        await say_who(page, "安娜")
        await page.keyboard.press("e")
        await expect(page.locator("#rewrite")).to_be_focused()
        await page.keyboard.type("jks")  # letters, not answers
        # The keys are the page's again in the very same turn: whoever types fast presses the next one before the page is drawn.
        assert await page.evaluate(ESCAPE) == "BODY"
        await expect(page.locator("#editor")).to_be_hidden()
        await page.keyboard.press("e")
        await page.keyboard.press("Control+a")
        await page.keyboard.type("怎么把 mmpose 部署到 TX2 上？")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(f'#answer[data-question="{older}"]')
        assert await site.labels(question) == [("安娜", "yes", "怎么把 mmpose 部署到 TX2 上？")]
        await expect(page.locator(".last")).to_contain_text("93%")
        assert await press(page, "u") == question
        assert await page.locator(".last").count() == 0
        assert complaints == []
    assert await site.labels(question) == []


async def test_an_answer_waits_for_a_locked_database_and_arrives_by_itself(chromium: Browser, tmp_path: Path) -> None:
    async with open_site(tmp_path / "pages.db", patience=0.05) as site, open_page(chromium, site) as (page, _):
        older, question = await site.ask(), await site.ask()
        await say_who(page, "安娜")
        other_process = sqlite3.connect(tmp_path / "pages.db", isolation_level=None)
        other_process.execute("BEGIN IMMEDIATE")
        await page.keyboard.press("j")
        await expect(page.locator("#notice")).to_have_text("数据库正忙（另一进程正在写入）。没有丢失任何内容，稍后自动重试。")
        await page.keyboard.press("k")  # the first answer is on its way: this one is not taken
        other_process.close()
        await page.wait_for_selector(f'#answer[data-question="{older}"]')
        await expect(page.locator("#notice")).to_be_hidden()
        assert await site.labels(question) == [("安娜", "yes", None)]
        assert await site.labels(older) == []


async def test_it_fits_a_phone_and_its_buttons_suit_thumbs(chromium: Browser, site: Site) -> None:
    question = await site.ask("https://example.com/" + "very-long-path/" * 20 + " 怎么部署？", context=tuple(f"第 {number} 句，" + "很长" * 40 for number in range(12)))
    async with open_page(chromium, site, phone=True) as (page, complaints):
        await say_who(page, "安娜")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        for button in await page.locator(".answer").all():
            box = await button.bounding_box()
            assert box is not None
            assert box["height"] >= 48
            assert box["width"] >= 90
            assert box["y"] + box["height"] <= 740  # within reach without scrolling
        await page.locator(".answer.no").tap()
        await page.wait_for_selector(".empty")
        await page.goto(f"{site.address}/dashboard")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        assert complaints == []
    assert await site.labels(question) == [("安娜", "no", None)]


async def test_light_and_dark_follow_the_system_until_the_reader_chooses(chromium: Browser, site: Site) -> None:
    async def background() -> str:
        return str(await page.evaluate("getComputedStyle(document.body).backgroundColor"))

    await site.ask()
    async with open_page(chromium, site, "/dashboard", color_scheme="dark") as (page, complaints):
        dark = await background()
        await page.emulate_media(color_scheme="light")
        light = await background()
        assert (sum(map(int, dark[4:-1].split(","))) < 150, sum(map(int, light[4:-1].split(","))) > 600) == (True, True)
        await page.locator("[data-theme-toggle]").focus()
        await page.keyboard.press("Enter")
        assert await background() == dark
        await page.reload()
        assert await background() == dark
        assert complaints == []


async def test_the_dashboard_shows_a_question_as_soon_as_it_is_recorded(chromium: Browser, site: Site) -> None:
    await site.ask("第一？", context=("上一句",))
    async with open_page(chromium, site, "/dashboard") as (page, complaints):
        await expect(page.locator("#live")).to_have_text("实时")
        await page.locator("#latest summary").first.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#latest details")).to_have_attribute("open", "")
        await site.ask("怎么把它部署到 TX2？")
        async with time_passing(site):
            await expect(page.locator("#latest li > .said").first).to_have_text("怎么把它部署到 TX2？")
        await expect(page.locator("#latest details[open]")).to_have_count(1)  # what was open stays open
        await expect(page.locator('#funnel [data-step="questions"] b')).to_have_text("2")
        assert complaints == []


async def test_without_chromium_the_tests_are_skipped_or_fail_where_they_must_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium_module, "chromium_path", lambda: None)
    monkeypatch.delenv("DOUJIE_REQUIRE_CHROMIUM", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        require_chromium()
    monkeypatch.setenv("DOUJIE_REQUIRE_CHROMIUM", "1")
    with pytest.raises(pytest.fail.Exception, match="DOUJIE_REQUIRE_CHROMIUM"):
        require_chromium()
