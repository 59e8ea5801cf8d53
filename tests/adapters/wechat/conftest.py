"""A puppet service, and a wechaty adapter that is connected to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.adapters.wechat.loopback_puppet import LoopbackPuppet
from tests.adapters.wechat.wechaty_bench import Bench, running


@pytest.fixture
async def server() -> AsyncIterator[LoopbackPuppet]:
    async with LoopbackPuppet() as server:
        yield server


@pytest.fixture
async def bench(server: LoopbackPuppet) -> AsyncIterator[Bench]:
    async with running(Bench(server)) as bench:
        yield bench


@pytest.fixture
async def impatient(server: LoopbackPuppet) -> AsyncIterator[Bench]:
    """One whose calls are given up after a moment, for calls that hang."""
    async with running(Bench(server, call_deadline=0.5)) as bench:
        yield bench
