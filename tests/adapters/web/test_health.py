from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.web.health import Readiness
from adapters.web.metrics import Metrics, Sources
from adapters.web.server import WebServer, make_app
from core.errors import ConfigError, StorageError
from core.events import QuestionJudged, QuestionResolved
from core.ports import Adapter, Health
from core.responder import ReplyRules, Responder
from tests.adapters.manual_clock import eventually
from tests.core.house import House, open_house, resolution, verdict


@dataclass
class Page:
    status: int
    content_type: str
    body: str

    def value(self, name: str, **labels: str) -> float:
        """One sample of the Prometheus text."""
        found = [sample.value for family in text_string_to_metric_families(self.body) for sample in family.samples if sample.name == name and sample.labels == labels]
        assert len(found) == 1, (name, labels, self.body)
        return found[0]


async def get(server: WebServer, path: str) -> Page:
    assert server.address is not None
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{server.address[1]}{path}") as response:
        return Page(response.status, response.headers["Content-Type"], await response.text())


@asynccontextmanager
async def serving(metrics: Metrics, adapters: Mapping[str, Adapter], started: list[bool]) -> AsyncIterator[WebServer]:
    server = WebServer(make_app(Readiness(adapters, lambda: all(started)), metrics), "127.0.0.1", 0)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "d.db") as house:
        yield house


async def test_alive_always_ready_when_all_is_connected_and_started(house: House) -> None:
    started: list[bool] = [False]
    async with serving(Metrics(), {"feishu": house.adapter}, started) as server:
        assert (await get(server, "/healthz")).status == 200
        assert (await get(server, "/readyz")).status == 503
        started[0] = True
        page = await get(server, "/readyz")
        assert page.status == 200
        assert '"connected": true' in page.body
        house.adapter.state = Health(False, "the token was refused", 12.34)
        page = await get(server, "/readyz")
        assert page.status == 503
        assert '"detail": "the token was refused", "last_event_age_seconds": 12.3' in page.body
        assert (await get(server, "/healthz")).status == 200


async def test_metrics_tell_what_happened(house: House) -> None:
    async def outbox() -> Mapping[str, int]:
        return {state.value: number for state, number in (await house.outbox.counts()).items()}

    metrics = Metrics()
    responder = Responder(house.bus, house.delivery, house.groups, house.store, ReplyRules(), clock=house.clock)
    sources: dict[str, Any] = {"bus": house.bus, "ingest": house.ingest, "responder": responder, "delivery": house.delivery}
    metrics.watch(Sources(adapters={"feishu": house.adapter}, failovers=lambda: {"gate": 3}, outbox=outbox, **sources))
    house.adapter.state = Health(True, last_event_age=4.5, waiting=7, dropped={"payload_missing": 2})
    await house.say(1, "怎么部署？")
    await house.say(1)
    await house.say(2, chat="elsewhere")
    await house.say(3, "/dj help")
    question = house.question(house.message(1))
    await house.bus.publish(QuestionJudged(question, verdict(0.9)))
    await house.bus.publish(QuestionResolved(question, verdict(0.9), resolution("甲")))
    await house.bus.drain()
    await house.delivery.start()
    await eventually(lambda: house.delivery.counts["feishu"])
    metrics.observe("store", 0.002)
    async with serving(metrics, {"feishu": house.adapter}, [True]) as server:
        page = await get(server, "/metrics")
    assert page.status == 200
    assert page.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert page.value("doujie_adapter_connected", platform="feishu") == 1
    assert page.value("doujie_adapter_last_event_age_seconds", platform="feishu") == 4.5
    assert page.value("doujie_adapter_waiting", platform="feishu") == 7
    assert page.value("doujie_adapter_dropped_total", platform="feishu", reason="payload_missing") == 2
    assert page.value("doujie_messages_received_total", platform="feishu") == 4
    assert page.value("doujie_messages_stored_total", platform="feishu") == 1
    assert page.value("doujie_messages_duplicates_total", platform="feishu") == 1
    assert page.value("doujie_messages_dropped_total", platform="feishu", reason="group_not_allowed") == 1
    assert page.value("doujie_messages_dropped_total", platform="feishu", reason="command") == 1
    assert page.value("doujie_stage_seconds_sum", stage="gate") == 0.04
    assert page.value("doujie_stage_seconds_sum", stage="resolver") == 0.08
    assert page.value("doujie_stage_seconds_count", stage="store") == 1
    assert page.value("doujie_model_failovers_total", stage="gate") == 3
    assert page.value("doujie_reply_decisions_total", result="switched_off") == 1
    assert page.value("doujie_deliveries_total", platform="feishu", outcome="sent") == 1
    assert page.value("doujie_outbox_replies", state="sent") == 1
    assert "部署" not in page.body


async def test_two_bots_in_one_process_do_not_share_numbers() -> None:
    first, second = Metrics(), Metrics()
    first.observe("store", 1.0)
    first.watch(Sources())
    second.watch(Sources())
    assert b'stage="store"' in await first.render()
    assert b'stage="store"' not in await second.render()


async def test_an_unreadable_database_shows_as_such() -> None:
    async def outbox() -> Mapping[str, int]:
        raise StorageError("sqlite:///d.db", "the disk is full", "Free some space")

    metrics = Metrics()
    metrics.watch(Sources(outbox=outbox))
    async with serving(metrics, {}, [True]) as server:
        page = await get(server, "/metrics")
    assert (page.status, "the disk is full" in page.body) == (503, True)


async def test_a_port_in_use_is_one_clear_line(house: House) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = WebServer(make_app(Readiness({}, lambda: True), Metrics()), "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConfigError, match=r"\[web\] port = '\d+': another program uses this port\. Choose another one"):
            await server.start()
    assert server.address is None
    await server.stop()
