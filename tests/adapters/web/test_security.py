"""Who gets in, and what pages may load."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import adapters.web
from adapters.web.health import Readiness
from adapters.web.metrics import Metrics
from adapters.web.pages import add_pages
from adapters.web.security import CSRF_HEADER
from adapters.web.server import WebServer, make_app, page_address
from adapters.web.setup import PagesSetup
from storage.engine import open_database
from tests.adapters.web.site import TOKEN, Site

HERE = Path(adapters.web.__path__[0])


async def routes(path: Path) -> set[tuple[str, str]]:
    """Every (method, path) of the pages, with a file's name where one belongs."""
    database = await open_database(f"sqlite:///{path}")
    app = web.Application()
    add_pages(app, PagesSetup(database, TOKEN))
    await database.close()
    return {(route.method, route.resource.canonical.replace("{name}", "style.css")) for route in app.router.routes() if route.resource}


async def test_nothing_is_shown_without_the_token(site: Site, tmp_path: Path) -> None:
    secret = "怎么把它部署到 TX2？"
    await site.ask(secret)
    every = await routes(tmp_path / "other.db")
    assert {("GET", "/"), ("GET", "/dashboard/events"), ("POST", "/label/answer"), ("POST", "/adjudicate/decide"), ("GET", "/static/style.css")} <= every
    async with aiohttp.ClientSession() as session:
        for method, path in sorted(every | {("GET", "/no-such-page"), ("GET", "/label?token=wrong"), ("POST", f"/label/answer?token={TOKEN}")}):
            async with session.request(method, site.address + path, allow_redirects=False) as response:
                assert response.status == 403, (method, path)
                assert secret not in await response.text()
                assert "Set-Cookie" not in response.headers


async def test_the_token_in_the_address_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(site: Site) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.get(f"{site.address}/label?lang=zh&token={TOKEN}", allow_redirects=False) as response:
            assert response.status == 303
            assert response.headers["Location"] == "/label?lang=zh"
            cookie = response.headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        async with session.get(f"{site.address}/label") as response:
            assert response.status == 200
            assert TOKEN not in await response.text()
        async with session.get(f"{site.address}//evil.example/?token={TOKEN}", allow_redirects=False) as response:
            assert response.headers["Location"] == "/evil.example/"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "{address}"}, 200),
        ({}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "{address}"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({CSRF_HEADER: "0" * 64}, 403),
        ({CSRF_HEADER: ""}, 403),
    ],
)
async def test_answers_are_taken_only_from_our_own_pages(site: Site, headers: dict[str, str], status: int) -> None:
    question = await site.ask()
    async with site.browser("anna") as browser:
        sent = {CSRF_HEADER: browser.csrf} | {name: value.format(address=site.address) for name, value in headers.items()}
        page = await browser.post("/label/answer", sent, **browser.page.fields, label="yes")
    assert page.status == status
    assert len(await site.labels(question)) == (status == 200)


async def test_pages_may_load_nothing_from_outside_and_be_framed_by_nobody(site: Site) -> None:
    async with site.browser("anna") as browser:
        for path in ("/label", "/dashboard", "/adjudicate", "/static/page.js", "/no-such-page"):
            headers = (await browser.get(path)).headers
            policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
        assert (await browser.get("/label")).headers["Cache-Control"] == "no-store"


def test_templates_hold_no_script_no_style_and_no_address_of_others() -> None:
    files = [path for path in (*HERE.glob("templates/**/*.html"), *HERE.glob("static/*")) if path.name not in ("htmx.min.js", "htmx.LICENSE.txt")]
    assert len(files) > 15
    for path in files:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|url\(", text), path
        if path.suffix == ".html":
            assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text), path
            assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text)), path


@pytest.mark.parametrize("token", [TOKEN, "9Zk+c2/x&y#z%41=="])
async def test_health_and_metrics_stay_open_beside_the_pages(tmp_path: Path, token: str) -> None:
    database = await open_database(f"sqlite:///{tmp_path / 'd.db'}")
    server = WebServer(make_app(Readiness({}, lambda: True), Metrics(), PagesSetup(database, token)), "127.0.0.1", 0)
    await server.start()
    assert server.address is not None
    address = f"http://127.0.0.1:{server.address[1]}"
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        for path in ("/healthz", "/readyz", "/metrics"):
            async with session.get(address + path) as response:
                assert response.status == 200
                assert "Content-Security-Policy" not in response.headers
        async with session.get(f"{address}/dashboard") as response:
            assert response.status == 403
        async with session.get(page_address("127.0.0.1", server.address[1], token)) as response:
            assert (response.status, response.url.path) == (200, "/dashboard")
    await server.stop()
    await database.close()


def test_pages_cannot_be_opened_without_any_token() -> None:
    from adapters.web.security import Guard

    with pytest.raises(ValueError, match="open to everybody"):
        Guard("")


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "http://127.0.0.1:80/?token=t"), ("::1", "http://[::1]:80/?token=t")])
def test_the_address_can_be_opened(host: str, address: str) -> None:
    assert page_address(host, 80, "t") == address


def test_the_address_of_all_interfaces_names_one_of_them() -> None:
    assert "0.0.0.0" not in page_address("0.0.0.0", 80, "t")
