"""The page of disagreements: a question whose labellers differ, with what each of them said; a third decision is recorded and may be taken back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from adapters.web.labelling import fields, labeller_of, read_label, read_number, read_rewrite, shown_name
from adapters.web.patience import within_patience
from adapters.web.setup import PagesSetup
from adapters.web.view import View
from storage.disagreements import SqlDisagreements
from storage.labels import Adjudication, LabelValue


@dataclass(slots=True)
class _Session:
    """One adjudicator. ``done``: (question id, whether it was decided and not skipped), newest last.

    ``undone``: if taking back was the last that was done, the question that was shown before it, and what is shown since.
    """

    skipped: set[str] = field(default_factory=set)
    done: list[tuple[str, bool]] = field(default_factory=list)
    undone: tuple[str, str] | None = None


class AdjudicationPages:
    def __init__(self, view: View, setup: PagesSetup) -> None:
        self._view, self._default_name, self._patience = view, setup.labeller, setup.patience
        self._disagreements = SqlDisagreements(setup.database)
        self._sessions: dict[str, _Session] = defaultdict(_Session)

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/adjudicate", self._page)
        for action in (self._decide, self._skip, self._undo, self._again):
            app.router.add_post(f"/adjudicate/{action.__name__.strip('_')}", action)

    async def _page(self, request: web.Request) -> web.Response:
        name = labeller_of(request, self._default_name)
        if not name:
            return self._view.page(request, "name.html", name="", bad=False)
        self._sessions[name].undone = None
        return self._view.page(request, "adjudicate.html", **await self._work(name))

    async def _decide(self, request: web.Request) -> web.Response:
        form = await fields(request)
        name = self._required_name(request, form)
        label, lines, found = read_label(form), read_number(form, "lines"), await self._disagreements.get(form.get("question_id", ""))
        if found is None:
            return await self._next(request, name, notice="label.gone")
        question = found.logged.question
        rewrite = read_rewrite(form, question.text) if label is LabelValue.YES else None
        decision = await within_patience(self._disagreements.settle(question.id, label, rewrite, name, lines), self._patience)
        if decision is None:
            return await self._next(request, name, notice="label.gone")
        session = self._sessions[name]
        session.undone = None
        if (question.id, True) not in session.done:
            session.done.append((question.id, True))
        return await self._next(request, name, decision=decision, text=question.text, notice="label.line_gone" if decision.rewrite != rewrite else "")

    async def _skip(self, request: web.Request) -> web.Response:
        form = await fields(request)
        name, question_id = self._required_name(request, form), form.get("question_id", "")
        session = self._sessions[name]
        session.undone = None
        if question_id not in session.skipped:
            session.skipped.add(question_id)
            session.done.append((question_id, False))
        return await self._next(request, name)

    async def _undo(self, request: web.Request) -> web.Response:
        form = await fields(request)
        name, shown = self._required_name(request, form), form.get("question_id", "")
        session = self._sessions[name]
        if session.undone is not None and session.undone[0] == shown:  # it is sent again: its first response was lost
            question_id = session.undone[1]
        elif not session.done:
            return await self._next(request, name, notice="label.nothing_to_undo")
        else:
            question_id = await self._take_back(session, name)
            session.undone = (shown, question_id)
        work = await self._work(name, first=question_id)
        if work["found"] is None or shown == question_id or work["found"].logged.question.id != question_id:
            session.undone = None  # the same question is shown again, to be left by another undo
        return self._view.fragment(request, "decide.html", **work)

    async def _take_back(self, session: _Session, name: str) -> str:
        """The question whose decision or skip was the last."""
        question_id, decided = session.done[-1]
        if decided:
            await within_patience(self._disagreements.reopen(question_id, name), self._patience)
        session.done.remove((question_id, decided))
        session.skipped.discard(question_id)
        return question_id

    async def _again(self, request: web.Request) -> web.Response:
        name = self._required_name(request, await fields(request))
        session = self._sessions[name]
        session.undone = None
        session.skipped.clear()
        session.done = [entry for entry in session.done if entry[1]]
        return await self._next(request, name)

    def _required_name(self, request: web.Request, form: Mapping[str, str]) -> str:
        name = shown_name(form) or labeller_of(request, self._default_name)
        if not name:
            raise web.HTTPConflict(text="nobody said who decides", headers={"HX-Redirect": "/adjudicate"})
        return name

    async def _next(self, request: web.Request, name: str, *, decision: Adjudication | None = None, text: str = "", notice: str = "", first: str = "") -> web.Response:
        return self._view.fragment(request, "decide.html", **await self._work(name, decision=decision, text=text, notice=notice, first=first))

    async def _work(self, name: str, *, decision: Adjudication | None = None, text: str = "", notice: str = "", first: str = "") -> dict[str, Any]:
        session = self._sessions[name]
        waiting = await self._disagreements.open()
        order = [question_id for question_id in dict.fromkeys([first, *waiting]) if question_id in waiting and question_id not in session.skipped]
        found = None
        for question_id in order:
            if (found := await self._disagreements.get(question_id)) is not None:
                break
        return {"name": name, "found": found, "open": len(waiting), "skipped": len(session.skipped & set(waiting)), "decision": decision, "text": text, "notice": notice}
