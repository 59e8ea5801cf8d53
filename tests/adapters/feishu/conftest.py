"""A running platform, and an adapter that is connected to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from adapters.feishu.adapter import FeishuAdapter
from tests.adapters.feishu.loopback import LoopbackFeishu
from tests.adapters.feishu.wires import FeishuWire
from tests.adapters.manual_clock import ManualClock, eventually
from tests.adapters.recording_sink import RecordingSink


@dataclass
class Running:
    """An adapter on the long connection, its sink and its platform."""

    feishu: LoopbackFeishu
    adapter: FeishuAdapter
    sink: RecordingSink
    clock: ManualClock

    async def until(self, condition: Callable[[], object], step: float = 0.0, timeout: float = 20.0) -> None:
        """Wait for ``condition()``; ``step`` seconds of the manual clock pass with each look."""
        await eventually(condition, timeout, tick=lambda: self.clock.advance(step))

    async def finish(self, awaitable: Any, step: float = 0.5) -> Any:
        """Result of ``awaitable`` while the manual clock runs."""
        task = asyncio.ensure_future(awaitable)
        await self.until(task.done, step)
        return await task

    def names_asked(self, prefix: str) -> int:
        return sum(call.path.startswith(prefix) for call in self.feishu.calls)


@pytest.fixture
async def feishu() -> AsyncIterator[LoopbackFeishu]:
    async with LoopbackFeishu() as server:
        yield server


@pytest.fixture
async def running(feishu: LoopbackFeishu) -> AsyncIterator[Running]:
    wire = FeishuWire(feishu)
    adapter, sink = FeishuAdapter(wire.config, wire.clock), RecordingSink()
    await adapter.start(sink)
    bench = Running(feishu, adapter, sink, wire.clock)
    await bench.until(lambda: adapter.health().connected)
    yield bench
    sink.release()
    await bench.finish(adapter.stop(), 1.0)
