"""The adapter conformance suite over both of Feishu's transports, by the real SDK against the loopback platform."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters.feishu.adapter import FeishuAdapter
from tests.adapters.conformance import AdapterConformance
from tests.adapters.feishu.loopback import LoopbackFeishu
from tests.adapters.feishu.wires import FeishuWebhookWire, FeishuWire


class TestFeishuLongConnection(AdapterConformance):
    platform = "feishu"

    @pytest.fixture
    async def wire(self) -> AsyncIterator[FeishuWire]:
        async with LoopbackFeishu() as server:
            yield FeishuWire(server)

    @pytest.fixture
    async def adapter(self, wire: FeishuWire) -> FeishuAdapter:
        return FeishuAdapter(wire.config, wire.clock)

    @staticmethod
    def adapters_own(tasks: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
        return without_server(tasks)


class TestFeishuWebhook(AdapterConformance):
    platform = "feishu"
    connects = False

    @pytest.fixture
    async def wire(self) -> AsyncIterator[FeishuWebhookWire]:
        async with LoopbackFeishu() as server:
            wire = FeishuWebhookWire(server)
            yield wire
            await wire.close()

    @pytest.fixture
    async def adapter(self, wire: FeishuWebhookWire) -> FeishuAdapter:
        return wire.adapter

    @staticmethod
    def adapters_own(tasks: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
        return without_server(tasks)


def without_server(tasks: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    """Handlers of aiohttp servers: the loopback platform's."""
    return {task for task in tasks if "RequestHandler" not in repr(task.get_coro())}
