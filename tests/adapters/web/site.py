"""The pages over a real database, asked as a browser asks: with cookies, the CSRF token of the page, and nothing else."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from adapters.web.pages import add_pages
from adapters.web.security import CSRF_HEADER
from adapters.web.server import WebServer
from adapters.web.setup import PagesSetup
from core.messages import ContextLine, Message, Question, Utterance
from storage.engine import Database, open_database
from storage.inbox import SqlInbox
from storage.labels import Label, SqlLabels
from storage.questions import SqlQuestionLog
from tests.adapters.manual_clock import ManualClock
from tests.storage.samples import message, resolution, verdict

TOKEN = "a-token-for-tests-0123456789"


@dataclass(frozen=True)
class Page:
    status: int
    body: str
    headers: Mapping[str, str]

    @property
    def question(self) -> str:
        """Id of the question that is shown, "" where none is."""
        found = re.search(r'data-question="([^"]*)"', self.body)
        return html.unescape(found[1]) if found else ""

    @property
    def fields(self) -> dict[str, str]:
        """The hidden fields of its form."""
        return {name: html.unescape(value) for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', self.body)}

    @property
    def text(self) -> str:
        """What a reader sees, tags gone and white space folded."""
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<dialog.*?</dialog>", "", self.body, flags=re.DOTALL))).split())


@dataclass
class Browser:
    """One browser: a cookie jar and the CSRF token of the last page."""

    address: str
    session: aiohttp.ClientSession
    csrf: str = ""
    page: Page = field(default_factory=lambda: Page(0, "", {}))

    async def get(self, path: str, **headers: str) -> Page:
        async with self.session.get(self.address + path, headers=headers, allow_redirects=False) as response:
            page = Page(response.status, await response.text(), response.headers)
        if found := re.search(r'"X-CSRF-Token": "(\w+)"', page.body):
            self.csrf = found[1]
        self.page = page if "data-question" in page.body else self.page
        return page

    async def post(self, path: str, headers: Mapping[str, str] | None = None, /, **fields: str) -> Page:
        """As htmx does: with the CSRF header unless ``headers`` says otherwise."""
        sent = {CSRF_HEADER: self.csrf, "HX-Request": "true"} if headers is None else headers
        async with self.session.post(self.address + path, data=fields, headers=sent, allow_redirects=False) as response:
            return Page(response.status, await response.text(), response.headers)

    async def answer(self, label: str, rewrite: str | None = None, of: Page | None = None) -> Page:
        """Answer the question that is shown; the next one is shown then."""
        rewritten = {} if rewrite is None else {"rewrite": rewrite}
        page = await self.post("/label/answer", **(of or self.page).fields, label=label, **rewritten)
        if page.status == 200:
            self.page = page
        return page

    async def skip(self) -> Page:
        self.page = await self.post("/label/skip", **self.page.fields)
        return self.page

    async def undo(self) -> Page:
        self.page = await self.post("/label/undo", **self.page.fields)
        return self.page


@dataclass
class Site:
    database: Database
    clock: ManualClock
    address: str
    server: WebServer
    number: int = 0
    names: Mapping[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def browser(self, name: str = "", language: str = "en") -> AsyncIterator[Browser]:
        """Let in by the token; ``name``: has said who labels."""
        jar = aiohttp.CookieJar(unsafe=True)  # cookies of an IP address
        async with aiohttp.ClientSession(cookie_jar=jar, headers={"Accept-Language": language}) as session:
            browser = Browser(self.address, session)
            await browser.get(f"/?token={TOKEN}")
            await browser.get("/label")
            if name:
                await browser.post("/label/name", name=name)
                await browser.get("/label")
            yield browser

    async def ask(
        self, text: str = "", *, context: tuple[str, ...] = (), probability: float | None = None, rewrite: str | None = None, chat: str = "g1", reply: bool = False
    ) -> str:
        """Log a question, a minute after the one before; its id. ``reply``: it quotes the last line of its context."""
        said = [self._message(line, f"u{n % 3}", chat) for n, line in enumerate((*context, text or f"提问 {self.number}？"))]
        await SqlInbox(self.database).add(said)
        utterance = Utterance((said[-1],))
        lines = tuple(ContextLine(m.shown_name, m.text, m.message_id, (said[-1].sent_at - m.sent_at).total_seconds(), reply and m is said[-2]) for m in said[:-1])
        last = said[-1]
        question = Question(utterance.id, utterance.conversation, last.sender_name, last.text, last.sent_at, lines, (last.message_id,), last.sender_id, last.chat_name, "how")
        log = SqlQuestionLog(self.database)
        await log.record_many([(Utterance((one,)), None) for one in said[:-1]])
        await log.record(utterance, question)
        if probability is not None:
            await log.judged(question.id, verdict(probability))
        if rewrite is not None:
            await log.resolved(question.id, resolution(rewrite))
        return question.id

    async def labels(self, question_id: str) -> list[tuple[str, str, str | None]]:
        """(labeller, label, rewrite) of each label, oldest first."""
        found: list[Label] = await SqlLabels(self.database).of_question(question_id)
        return [(label.labeller, label.label.value, label.rewrite) for label in found]

    def _message(self, text: str, sender: str, chat: str) -> Message:
        self.number += 1
        said = message(self.number * 60, text, sender=sender, chat=chat)
        return replace(said, sender_name=self.names.get(sender, said.sender_name))


@asynccontextmanager
async def open_site(path: Path, *, clock: ManualClock | None = None, patience: float = 60.0, **setup: Any) -> AsyncIterator[Site]:
    """``patience``: long, for a busy machine; tests of impatience choose their own."""
    clock = clock or ManualClock()
    database = await open_database(f"sqlite:///{path}", now=clock.now, busy_timeout=0.01)
    app = web.Application()
    add_pages(app, PagesSetup(database, TOKEN, clock=clock, home="/label", patience=patience, **setup))
    server = WebServer(app, "127.0.0.1", 0)
    await server.start()
    assert server.address is not None
    try:
        yield Site(database, clock, f"http://127.0.0.1:{server.address[1]}", server)
    finally:
        await server.stop()
        await database.close()
