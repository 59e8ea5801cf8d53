"""A real Chromium for the tests, driven by Playwright. Where there is none the tests are skipped and say so; with DOUJIE_REQUIRE_CHROMIUM=1 they fail instead."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Playwright, async_playwright

from adapters.web.view import LANGUAGE_COOKIE
from tests.adapters.web.site import TOKEN, Site

REMEDY = "Debian/Ubuntu: apt-get install chromium fonts-noto-cjk; or set DOUJIE_CHROMIUM to the program"
TIMEOUT_MS = 60_000
"""Long, for a busy machine: nothing waits for it that comes sooner."""


def chromium_path() -> str | None:
    named = os.environ.get("DOUJIE_CHROMIUM", "")
    return shutil.which(named) if named else next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def require_chromium() -> str:
    """The program's path; without one the test is skipped, or fails where it must not be."""
    path = chromium_path()
    if path is None and os.environ.get("DOUJIE_REQUIRE_CHROMIUM", "") not in ("", "0"):
        pytest.fail(f"no Chromium, and DOUJIE_REQUIRE_CHROMIUM is set. {REMEDY}")
    if path is None:
        pytest.skip(f"no Chromium on this machine. {REMEDY}")
    return path


@asynccontextmanager
async def open_chromium() -> AsyncIterator[Browser]:
    """One browser process. Without a sandbox: it runs as root in containers and sees only our own pages."""
    path = require_chromium()
    manager: Playwright
    async with async_playwright() as manager:
        browser = await manager.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"], timeout=TIMEOUT_MS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def open_page(chromium: Browser, site: Site, path: str = "/label", *, phone: bool = False, language: str = "zh", **options: Any) -> AsyncIterator[tuple[Page, list[str]]]:
    """A page that was let in by the token, and the complaints of its console: errors, and what the Content-Security-Policy refused."""
    size = {"width": 360, "height": 740} if phone else {"width": 1100, "height": 800}
    context: BrowserContext = await chromium.new_context(viewport=size, has_touch=phone, is_mobile=phone, locale="zh-CN" if language == "zh" else "en-GB", **options)
    context.set_default_timeout(TIMEOUT_MS)
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(site.address) else complaints.append(f"loads {request.url}"))
    try:
        await page.goto(f"{site.address}{path}?token={TOKEN}")
        assert all(cookie["name"] != LANGUAGE_COOKIE for cookie in await context.cookies())
        yield page, complaints
    finally:
        await context.close()


async def shown_question(page: Page) -> str:
    """Id of the question that is shown, "" at the end."""
    return await page.locator("#answer").get_attribute("data-question") or ""


async def press(page: Page, key: str) -> str:
    """Press a key and wait until another question is shown; its id."""
    before = await shown_question(page)
    await page.keyboard.press(key)
    await page.wait_for_function("before => (document.querySelector('#answer').dataset.question ?? '') !== before", arg=before)
    return await shown_question(page)
