"""From a template to a response: words in the reader's language, times in the group's zone, and what every page knows (theme, address of the static files, CSRF token)."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from adapters.web.texts import Language, chosen_language, translate
from core.clock import Clock
from storage.dashboard import model_name

HERE = Path(__file__).parent
LANGUAGE_COOKIE, THEME_COOKIE = "doujie_lang", "doujie_theme"
_THEMES = ("light", "dark")
_COOKIE_AGE = 365 * 24 * 3600
_UNITS = ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


class View:
    """Renders the pages of one server. ``csrf``: what our own requests carry in a header."""

    def __init__(self, clock: Clock, timezone: str, default_language: Language, csrf: str) -> None:
        self._clock, self._zone, self._default, self._csrf = clock, ZoneInfo(timezone), default_language, csrf
        self._files = {path.name: path.read_bytes() for path in sorted((HERE / "static").iterdir()) if path.is_file()}
        self._version = hashlib.sha256(b"".join(self._files.values())).hexdigest()[:12]
        self._environment = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)

    def install(self, app: web.Application) -> None:
        """Serve the static files."""
        app.router.add_get("/static/{name}", self._static)

    def language(self, request: web.Request) -> Language:
        return chosen_language(request.query.get("lang", ""), request.cookies.get(LANGUAGE_COOKIE, ""), request.headers.get("Accept-Language", ""), self._default)

    def words(self, request: web.Request) -> Callable[..., str]:
        """``t(key, **values)`` in the reader's language."""
        return self._words(self.language(request))

    def page(self, request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
        """A whole page. A language that was asked for by ``?lang=`` is remembered."""
        language = self.language(request)
        theme = request.cookies.get(THEME_COOKIE, "")
        page = {
            "path": request.path,
            "theme": theme if theme in _THEMES else "",
            "other": "zh" if language == "en" else "en",
            "csrf": self._csrf,
            "version": self._version,
        }
        response = web.Response(text=self.render(template, language, **page, **values), content_type="text/html", status=status)
        if request.query.get("lang") == language:
            response.set_cookie(LANGUAGE_COOKIE, language, max_age=_COOKIE_AGE, httponly=True, samesite="Strict", path="/")
        return response

    def fragment(self, request: web.Request, template: str, **values: Any) -> web.Response:
        """A part of a page."""
        return web.Response(text=self.render(template, self.language(request), **values), content_type="text/html")

    def render(self, template: str, language: Language, **values: Any) -> str:
        t = self._words(language)

        def gap(seconds: float) -> str:
            return _span(t, seconds)

        functions = {"t": t, "gap": gap, "moment": self.moment, "percent": _percent, "model_name": model_name}
        return self._environment.get_template(template).render(lang=language, **functions, **values)

    def moment(self, at: datetime) -> str:
        """Time of day, with the date where it is not today's, in the group's zone."""
        shown, now = at.astimezone(self._zone), self._clock.now().astimezone(self._zone)
        if shown.date() == now.date():
            return shown.strftime("%H:%M")
        return shown.strftime("%m-%d %H:%M" if shown.year == now.year else "%Y-%m-%d %H:%M")

    def day_began(self) -> datetime:
        """Midnight in the group's zone."""
        return self._clock.now().astimezone(self._zone).replace(hour=0, minute=0, second=0, microsecond=0)

    def _words(self, language: Language) -> Callable[..., str]:
        def t(key: str, **values: object) -> str:
            return translate(language, key, **values)

        return t

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        body = self._files.get(name)
        if body is None:
            raise web.HTTPNotFound(text="no such file\n")
        # Addresses carry the version of the files: what was fetched once stays valid.
        headers = {"Cache-Control": "private, max-age=31536000, immutable"} if "v" in request.query else {}
        return web.Response(body=body, content_type=mimetypes.guess_type(name)[0] or "application/octet-stream", charset="utf-8", headers=headers)


def _span(t: Callable[..., str], seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return t(f"gap.{unit}", n=round(seconds / size))
    return ""


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
