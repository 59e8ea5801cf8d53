"""The labelling page: one question at a time; what the model thinks is shown only after the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, unquote

from aiohttp import web

from adapters.web.patience import within_patience
from adapters.web.setup import PagesSetup
from adapters.web.sittings import Sitting, Sittings, Skip
from adapters.web.view import View
from core.agreement import Agreement
from core.text import clean_text
from storage.disagreements import SqlDisagreements, Standing
from storage.labelling import Answer, Given, Item, Source, SqlLabelling
from storage.labels import LabelValue
from storage.questions import LoggedQuestion

NAME_COOKIE = "doujie_labeller"
LONGEST_NAME = 40
LONGEST_REWRITE = 2000
_NAME_AGE = 365 * 24 * 3600
_UNDO_AFTER_RESTART = timedelta(hours=1)
STANDING_SECONDS = 20.0
"""Agreement is counted again after so long: it reads all labels."""


@dataclass(frozen=True, slots=True)
class Last:
    """What was answered last, and is shown with the model's guess; or skipped (``given`` None), and the guess stays hidden: the question may come again."""

    logged: LoggedQuestion
    given: Given | None


class LabellingPages:
    def __init__(self, view: View, setup: PagesSetup, sittings: Sittings) -> None:
        self._view, self._sittings = view, sittings
        self._clock, self._default_name, self._patience = setup.clock, setup.labeller, setup.patience
        self._desk, self._disagreements = SqlLabelling(setup.database), SqlDisagreements(setup.database)
        self._standings: dict[str, tuple[float, Standing]] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/label", self._page)
        app.router.add_get("/label/name", self._name_page)
        app.router.add_post("/label/name", self._set_name)
        app.router.add_get("/label/progress", self._progress)
        for action in (self._answer, self._skip, self._undo, self._again):
            app.router.add_post(f"/label/{action.__name__.strip('_')}", action)

    async def _page(self, request: web.Request) -> web.Response:
        name = labeller_of(request, self._default_name)
        if not name:
            return self._view.page(request, "name.html", name="", bad=False)
        self._sittings.of(name).undone = None
        return self._view.page(request, "label.html", **await self._work(name))

    # --- who labels

    async def _name_page(self, request: web.Request) -> web.Response:
        return self._view.page(request, "name.html", name=labeller_of(request, self._default_name), bad=False)

    async def _set_name(self, request: web.Request) -> web.Response:
        typed = clean_text((await fields(request)).get("name", "")).strip()
        if not 0 < len(typed) <= LONGEST_NAME or not typed.isprintable():
            return self._view.fragment(request, "name_form.html", name=typed[:LONGEST_NAME], bad=True)
        response = web.Response(headers={"HX-Redirect": "/label"})
        response.set_cookie(NAME_COOKIE, quote(typed), max_age=_NAME_AGE, httponly=True, samesite="Strict", path="/")
        return response

    # --- answers

    async def _answer(self, request: web.Request) -> web.Response:
        form = await fields(request)
        name = self._required_name(request, form)
        label, source, seen, lines = read_label(form), _source(form), read_number(form, "seen"), read_number(form, "lines")
        item = await self._desk.item(form.get("question_id", ""), name, source)
        if item is None:
            return await self._next(request, name, notice="label.gone")
        question = item.logged.question
        rewrite = read_rewrite(form, question.text) if label is LabelValue.YES else None
        given = await within_patience(self._desk.give(Answer(question.id, name, label, rewrite, source, seen, lines)), self._patience)
        if given is None:
            return await self._next(request, name, notice="label.gone")
        self._sittings.of(name).gave(given)
        return await self._next(request, name, last=Last(item.logged, given), notice="label.line_gone" if given.label.rewrite != rewrite else "")

    async def _skip(self, request: web.Request) -> web.Response:
        form = await fields(request)
        name = self._required_name(request, form)
        source = _source(form)
        item = await self._desk.item(form.get("question_id", ""), name, source)
        if item is None:
            return await self._next(request, name, notice="label.gone")
        self._sittings.of(name).skip(Skip(item.logged.question.id, source))
        return await self._next(request, name, last=Last(item.logged, None))

    async def _undo(self, request: web.Request) -> web.Response:
        form = await fields(request)
        name, shown = self._required_name(request, form), form.get("question_id", "")
        sitting = self._sittings.of(name)
        if sitting.undone is not None and sitting.undone[0] == shown:  # it is sent again: its first response was lost
            back = sitting.undone[1]
        else:
            action = sitting.newest or await self._desk.last_answer(name, self._clock.now() - _UNDO_AFTER_RESTART)
            if action is None:
                return await self._next(request, name, notice="label.nothing_to_undo")
            back = await self._take_back(sitting, action)
            sitting.undone = None if back.question_id == shown else (shown, back)
        item = await self._desk.item(back.question_id, name, back.source)
        if item is None:
            sitting.undone = None  # the same question may be shown again, to be left by another undo
            return await self._next(request, name, notice="label.gone")
        return self._fragment(request, self._show(name, item))

    async def _take_back(self, sitting: Sitting, action: Given | Skip) -> Skip:
        """What is to be shown then. Where the database makes it wait, the next attempt takes the same action back."""
        if isinstance(action, Given):
            sitting.gave(action)
            await within_patience(self._desk.take_back(action), self._patience)
        sitting.forget(action)
        if isinstance(action, Skip):
            return action
        return Skip(action.label.question_id, Source.REPEAT if action.second_look else Source.TAKEN_BACK)

    async def _again(self, request: web.Request) -> web.Response:
        name = self._required_name(request, await fields(request))
        self._sittings.of(name).show_skipped_again()
        return await self._next(request, name)

    # --- progress

    async def _progress(self, request: web.Request) -> web.Response:
        name = self._required_name(request, request.query)
        progress = await self._desk.progress(name)
        return self._view.fragment(request, "progress.html", name=name, progress=progress, rows=_rows(await self._standing(name)))

    async def _standing(self, name: str) -> Standing:
        now = self._clock.monotonic()
        at, standing = self._standings.get(name, (now - STANDING_SECONDS, None))
        if standing is None or now - at >= STANDING_SECONDS:
            standing = await self._disagreements.standing(name)
            self._standings[name] = (now, standing)
        return standing

    # --- showing

    def _required_name(self, request: web.Request, form: Mapping[str, str]) -> str:
        name = shown_name(form) or labeller_of(request, self._default_name)
        if not name:
            raise web.HTTPConflict(text="nobody said who labels", headers={"HX-Redirect": "/label"})
        return name

    async def _next(self, request: web.Request, name: str, *, last: Last | None = None, notice: str = "") -> web.Response:
        return self._fragment(request, await self._work(name, last=last, notice=notice))

    async def _work(self, name: str, *, last: Last | None = None, notice: str = "") -> dict[str, Any]:
        avoid = self._sittings.of(name).skipped | self._sittings.before_others(name)
        item = await self._desk.next_item(name, avoid)
        if item is None:  # rather share a question than stop
            item = await self._desk.next_item(name, self._sittings.of(name).skipped)
        empty = item is None and (await self._desk.progress(name)).questions == 0
        return {**self._show(name, item), "last": last, "notice": notice, "empty": empty}

    def _show(self, name: str, item: Item | None) -> dict[str, Any]:
        self._sittings.claim(name, None if item is None else item.logged.question.id)
        sitting: Sitting = self._sittings.of(name)
        return {"name": name, "item": item, "last": None, "notice": "", "empty": False, "skipped": len(sitting.skipped)}

    def _fragment(self, request: web.Request, values: dict[str, Any]) -> web.Response:
        response = self._view.fragment(request, "work.html", **values)
        response.headers["HX-Trigger"] = "answered"
        return response


def labeller_of(request: web.Request, default: str) -> str:
    """The name that this browser chose, else ``default``."""
    return unquote(request.cookies.get(NAME_COOKIE, "")) or default


def shown_name(form: Mapping[str, str]) -> str:
    """The name that the page showed: in another tab the browser may have taken another one since."""
    name = form.get("labeller", "")
    return name if len(name) <= LONGEST_NAME and name.isprintable() else ""


async def fields(request: web.Request) -> dict[str, str]:
    """The fields of a form; uploaded files are none."""
    return {key: value for key, value in (await request.post()).items() if isinstance(value, str)}


def read_label(form: Mapping[str, str]) -> LabelValue:
    try:
        return LabelValue(form.get("label", ""))
    except ValueError:
        raise web.HTTPBadRequest(text="label must be yes, no or not_question\n") from None


def read_rewrite(form: Mapping[str, str], question: str) -> str | None:
    """A rewrite as it was typed, on one line; None when it says nothing or no more than the question."""
    typed = " ".join(clean_text(form.get("rewrite", "")).split())
    if len(typed) > LONGEST_REWRITE:
        raise web.HTTPBadRequest(text=f"a rewrite has at most {LONGEST_REWRITE} characters\n")
    return typed if typed and typed != " ".join(question.split()) else None


def _source(form: Mapping[str, str]) -> Source:
    try:
        return Source(form.get("source", ""))
    except ValueError:
        raise web.HTTPBadRequest(text="source is unknown\n") from None


def read_number(form: Mapping[str, str], name: str) -> int:
    number = form.get(name, "0")
    if not number.isascii() or not number.isdigit() or len(number) > 18:
        raise web.HTTPBadRequest(text=f"{name} must be a number\n")
    return int(number)


def _rows(standing: Standing) -> list[tuple[str, Agreement]]:
    """Rows of the agreement table; the first column is a key of the texts or, behind "=", a name."""
    rows = [("progress.myself", standing.myself)]
    if len(standing.by_name) > 1:
        rows.append(("progress.everybody", standing.others))
    rows += [(f"={name}", each) for name, each in standing.by_name]
    return [(name, each) for name, each in rows if each.items]
