"""A gate that takes over promoted adapters: between two calls, without losing one, and never a broken one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.errors import BackendError, ConfigError
from core.gates.reload import LOOK_EVERY_SECONDS, ReloadingGate
from core.messages import ConversationKey, GateVersion, Question, Verdict
from core.ports import Gate, versions_of
from core.registry import Registry, Version
from tests.adapters.manual_clock import ManualClock, eventually
from tests.core.test_registry import add, files


def question(text: str = "它支持么？") -> Question:
    return Question(text, ConversationKey("feishu", "g"), "A", text, datetime(2026, 3, 2, tzinfo=UTC))


class NamedGate:
    """Answers with its name; while ``held``, only after :attr:`go`."""

    def __init__(self, name: str, *, probability: float = 0.5, held: bool = False) -> None:
        self.name, self.probability = name, probability
        self.closed = 0
        self.go = asyncio.Event()
        if not held:
            self.go.set()

    @property
    def versions(self) -> frozenset[GateVersion]:
        return frozenset({GateVersion(self.name)})

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        await self.go.wait()
        if self.closed:
            raise BackendError(self.name, "is closed")
        return [Verdict(self.probability, 0.5, self.name, "p") for _ in questions]

    async def close(self) -> None:
        self.closed += 1


class Loader:
    """Opens a :class:`NamedGate` for each version; ``problem``: raised instead."""

    def __init__(self) -> None:
        self.opened: list[NamedGate] = []
        self.problem: Exception | None = None
        self.probability = 0.5

    async def __call__(self, version: Version | None) -> Gate:
        if self.problem is not None:
            raise self.problem
        gate = NamedGate(f"v{version.number}" if version else "shipped", probability=self.probability)
        self.opened.append(gate)
        return gate


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


async def name(gate: ReloadingGate) -> str:
    (verdict,) = await gate.judge([question()])
    return verdict.model


async def test_a_promoted_version_takes_over_within_one_look_and_a_rollback_too(registry: Registry, tmp_path: Path) -> None:
    clock, shipped, loader = ManualClock(), NamedGate("shipped"), Loader()
    gate = ReloadingGate(shipped, registry, loader, clock=clock)
    gate.watch()
    assert await name(gate) == "shipped"
    registry.promote(add(registry, tmp_path))
    assert await name(gate) == "shipped", "not before it has looked"
    await eventually(lambda: gate.number == 1, tick=lambda: clock.advance(LOOK_EVERY_SECONDS))
    assert await name(gate) == "v1"
    assert versions_of(gate) == frozenset({GateVersion("v1")})
    await eventually(lambda: shipped.closed == 1)
    registry.rollback()
    await eventually(lambda: gate.number == 0, tick=lambda: clock.advance(LOOK_EVERY_SECONDS))
    assert await name(gate) == "shipped"
    await gate.close()
    assert all(one.closed == 1 for one in loader.opened)


async def test_a_call_under_way_ends_with_the_gate_it_began_with(registry: Registry, tmp_path: Path) -> None:
    old = NamedGate("shipped", held=True)
    gate = ReloadingGate(old, registry, Loader())
    running = [asyncio.create_task(name(gate)) for _ in range(3)]
    await asyncio.sleep(0)
    registry.promote(add(registry, tmp_path))
    assert await gate.refresh()
    assert await name(gate) == "v1"
    assert old.closed == 0, "it still has calls"
    old.go.set()
    assert await asyncio.gather(*running) == ["shipped"] * 3
    await eventually(lambda: old.closed == 1)
    await gate.close()


async def test_no_question_is_lost_while_versions_come_and_go(registry: Registry, tmp_path: Path) -> None:
    gate = ReloadingGate(NamedGate("shipped"), registry, Loader())
    seen: list[str] = []
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            seen.append(await name(gate))
            await asyncio.sleep(0)

    askers = [asyncio.create_task(ask()) for _ in range(5)]
    for text in "abcd":
        registry.promote(add(registry, tmp_path, text))
        assert await gate.refresh()
        reached = len(seen) + 20
        await eventually(lambda reached=reached: len(seen) > reached)  # type: ignore[misc]
    done.set()
    await asyncio.gather(*askers)  # would raise the error of a closed gate
    assert {"v1", "v2", "v3", "v4"} <= set(seen)
    await gate.close()


@pytest.mark.parametrize(
    "problem", [ConfigError("gate", "adapter", "x", "does not fit this model", "Use its base."), BackendError("llama_cpp", "no memory"), RuntimeError("anything")]
)
async def test_what_cannot_be_loaded_is_refused_once_and_the_old_one_serves_on(registry: Registry, tmp_path: Path, problem: Exception) -> None:
    shipped, loader = NamedGate("shipped"), Loader()
    gate = ReloadingGate(shipped, registry, loader)
    loader.problem = problem
    registry.promote(add(registry, tmp_path))
    with capture_logs() as logs:
        for _ in range(3):
            assert not await gate.refresh()
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("adapter_refused", "error")]
    assert str(problem) in gate.refused
    assert await name(gate) == "shipped"
    assert shipped.closed == 0
    loader.problem = None
    registry.promote(add(registry, tmp_path, "b"))
    assert await gate.refresh(), "the next promotion is tried again"
    assert gate.refused == ""
    await gate.close()


async def test_files_that_changed_are_never_loaded(registry: Registry, tmp_path: Path) -> None:
    loader = Loader()
    gate = ReloadingGate(NamedGate("shipped"), registry, loader)
    registry.promote(add(registry, tmp_path))
    registry.open(1).adapter.write_bytes(b"GGUFx")
    with capture_logs() as logs:
        assert not await gate.refresh()
    assert "has changed since it was trained" in logs[0]["problem"]
    assert loader.opened == []
    await gate.close()


async def test_a_gate_that_answers_garbage_is_closed_again(registry: Registry, tmp_path: Path) -> None:
    loader = Loader()
    loader.probability = math.nan
    gate = ReloadingGate(NamedGate("shipped"), registry, loader)
    registry.promote(add(registry, tmp_path))
    assert not await gate.refresh()
    assert "garbage" in gate.refused
    assert loader.opened[0].closed == 1
    assert await name(gate) == "shipped"
    await gate.close()


async def test_a_broken_current_file_is_said_once_and_mended_by_the_next_promotion(registry: Registry, tmp_path: Path) -> None:
    gate = ReloadingGate(NamedGate("shipped"), registry, Loader())
    number = registry.add(files(tmp_path / "made"), "base", {}).number
    (registry.folder / "current.json").write_text("{")
    with capture_logs() as logs:
        assert not await gate.refresh()
        assert not await gate.refresh()
    assert len(logs) == 1
    (registry.folder / "current.json").unlink()
    registry.promote(number)
    assert await gate.refresh()
    await gate.close()


async def test_closing_ends_the_watch_and_is_idempotent(registry: Registry) -> None:
    shipped = NamedGate("shipped")
    gate = ReloadingGate(shipped, registry, Loader(), clock=ManualClock())
    gate.watch()
    await gate.close()
    await gate.close()
    assert shipped.closed >= 1
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "adapter-reload"]
