"""The dashboard: a page, and a stream of server-sent events that replaces those of its sections that have changed."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from adapters.web.feed import Feed, Reading
from adapters.web.texts import Language
from adapters.web.view import View
from core.errors import StorageError
from core.ports import Adapter

SECTIONS = ("funnel", "latest", "groups", "labels", "flips", "models")
"""Besides health, which is shown without a database too."""
STILL_HERE = b":\n\n"
"""A comment: the client ignores it; a client that has gone is noticed by it."""


class DashboardPages:
    def __init__(self, view: View, feed: Feed, adapters: Mapping[str, Adapter]) -> None:
        self._view, self._feed, self._adapters = view, feed, adapters
        self._rendered: dict[Language, tuple[Reading, dict[str, str]]] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/dashboard", self._page)
        app.router.add_get("/dashboard/events", self._events)
        app.on_shutdown.append(self._close)

    async def _page(self, request: web.Request) -> web.Response:
        sections = self._render(Reading(await self._feed.load()), self._view.language(request))
        return self._view.page(request, "dashboard.html", sections=sections)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """One event for each section that differs from what this client was sent; its name is the section's, its data the HTML as a JSON string."""
        language = self._view.language(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"})
        sent: dict[str, str] = {}
        async with self._feed.follow() as subscription:
            await response.prepare(request)
            try:
                while (reading := await subscription.next()) is not None:
                    sections = self._sections(reading, language)
                    changed = {name: html for name, html in sections.items() if sent.get(name) != html}
                    sent.update(changed)
                    await response.write(b"".join(_event(name, html) for name, html in changed.items()) or STILL_HERE)
            except ConnectionResetError:
                pass  # the reader has gone
        return response

    def _sections(self, reading: Reading, language: Language) -> dict[str, str]:
        """Rendered once for all readers of a language."""
        known = self._rendered.get(language)
        if known is None or known[0] is not reading:
            known = self._rendered[language] = (reading, self._render(reading, language))
        return known[1]

    def _render(self, reading: Reading, language: Language) -> dict[str, str]:
        """The sections that can be told: without a snapshot only health."""
        adapters = {platform: adapter.health() for platform, adapter in self._adapters.items()}
        health = self._view.render("dashboard/health.html", language, now=reading.snapshot, problem=_problem(reading.problem), adapters=adapters)
        if reading.snapshot is None:
            return {"health": health}
        return {"health": health} | {name: self._view.render(f"dashboard/{name}.html", language, now=reading.snapshot) for name in SECTIONS}

    async def _close(self, app: web.Application) -> None:
        await self._feed.close()


def _problem(error: StorageError | None) -> str:
    return "" if error is None else f"{error.problem}. {error.remedy}"


def _event(name: str, html: str) -> bytes:
    return f"event: {name}\ndata: {json.dumps(html, ensure_ascii=False)}\n\n".encode()
