"""``/healthz`` (the process lives), ``/readyz`` (it does its work) and ``/metrics``. None of them shows what members wrote, nor names of groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from adapters.web.metrics import CONTENT_TYPE, Metrics
from core.errors import StorageError
from core.ports import Adapter


@dataclass(frozen=True, slots=True)
class Readiness:
    """``started``: the pipeline took up its work; an adapter counts while it is connected."""

    adapters: Mapping[str, Adapter]
    started: Callable[[], bool]


def add_health_routes(app: web.Application, readiness: Readiness, metrics: Metrics) -> None:
    """Serve the three paths on ``app``."""

    async def alive(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(request: web.Request) -> web.Response:
        started, adapters = readiness.started(), {platform: _health(adapter) for platform, adapter in readiness.adapters.items()}
        is_ready = started and all(health["connected"] for health in adapters.values())
        return web.json_response({"ready": is_ready, "pipeline": started, "adapters": adapters}, status=200 if is_ready else 503)

    async def scrape(request: web.Request) -> web.Response:
        try:
            return web.Response(body=await metrics.render(), headers={"Content-Type": CONTENT_TYPE})
        except StorageError as error:
            return web.json_response({"problem": error.problem, "remedy": error.remedy}, status=503)

    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", scrape)


def _health(adapter: Adapter) -> dict[str, object]:
    health = adapter.health()
    age = None if health.last_event_age is None else round(health.last_event_age, 1)
    return {"connected": health.connected, "detail": health.detail, "last_event_age_seconds": age}
