"""All pages on one application: labelling, adjudication, dashboard. What was served before them (health, metrics) stays as it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from adapters.web.adjudication import AdjudicationPages
from adapters.web.dashboard import DashboardPages
from adapters.web.feed import Feed
from adapters.web.labelling import LabellingPages
from adapters.web.patience import LOCKED
from adapters.web.security import Guard
from adapters.web.setup import PagesSetup
from adapters.web.sittings import Sittings
from adapters.web.view import View
from core.errors import StorageError
from storage.dashboard import SqlDashboard

log = structlog.get_logger(__name__)
RETRY_SECONDS = 2
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_pages(app: web.Application, setup: PagesSetup) -> None:
    """Add the pages to ``app``, behind the token. To be called after the routes that need none were added."""
    guard = Guard(setup.token, public=[resource.canonical for resource in app.router.resources()])
    view = View(setup.clock, setup.timezone, setup.language, guard.csrf)
    guard.install(app)
    app.middlewares.append(_tell_storage_problems(view, guard))
    view.install(app)

    async def home(request: web.Request) -> web.Response:
        return web.Response(status=303, headers={"Location": setup.home})

    app.router.add_get("/", home)
    LabellingPages(view, setup, Sittings(setup.clock)).add_routes(app)
    AdjudicationPages(view, setup).add_routes(app)
    dashboard = SqlDashboard(setup.database)
    feed = Feed(lambda: dashboard.snapshot(view.day_began()), setup.clock)
    DashboardPages(view, feed, setup.adapters).add_routes(app)


def _tell_storage_problems(view: View, guard: Guard) -> Middleware:
    """A database that cannot be used is one clear line; pages and their scripts try again by themselves."""

    @web.middleware
    async def tell(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except StorageError as error:
            if guard.is_public(request):
                raise
            log.warning("page_without_database", path=request.path, problem=error.problem, remedy=error.remedy)
            line = problem_line(view, request, error)
        headers = {"Retry-After": str(RETRY_SECONDS)}
        if "HX-Request" in request.headers or request.method != "GET":
            return web.Response(text=line, status=503, headers=headers)
        response = view.page(request, "problem.html", status=503, line=line, retry=RETRY_SECONDS)
        response.headers.update(headers)
        return response

    return tell


def problem_line(view: View, request: web.Request, error: StorageError) -> str:
    """``error`` in the reader's language as far as we can."""
    t = view.words(request)
    return t("problem.busy") if error.problem == LOCKED else t("problem.storage", problem=error.problem, remedy=error.remedy)
