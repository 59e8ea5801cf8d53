"""A gate that picks up a newly promoted adapter while it serves: loads it beside, swaps between two calls, and closes the old one after its last call.

What cannot be loaded, or does not answer, is refused with a line in the log, and the old gate serves on. No call is lost, and none waits for anything but the model thread.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from core.clock import Clock, SystemClock
from core.config import Config
from core.errors import BackendError, ConfigError, DoujieError, InputError
from core.gates.backends import ModelSource, close_all, open_language_models
from core.gates.cascade import CascadeGate
from core.gates.worker import ModelWorker
from core.head import EncoderHead, GateCalibration
from core.messages import ConversationKey, GateVersion, Question, Verdict
from core.ports import Gate, versions_of
from core.prompts import GATE_PROMPTS
from core.registry import SHIPPED_VERSION, Registry, Version

log = structlog.get_logger(__name__)

#: Seconds between two looks at the registry.
LOOK_EVERY_SECONDS = 10.0
#: What a new gate must answer before it may serve.
_PROBE = Question("probe", ConversationKey("probe", "probe"), "A", "怎么把它部署到 TX2？", datetime(2026, 1, 1, tzinfo=UTC))

#: Opens the gate of a version; None is the shipped one.
Load = Callable[[Version | None], Awaitable[Gate]]
#: Opens the encoder head of a file with a mark added to its version; None where the encoder is not installed.
OpenHead = Callable[[Path, str], Awaitable[EncoderHead | None]]


@dataclass(slots=True, eq=False)
class _Serving:
    """A gate, the number of its version, and how many calls it has under way."""

    gate: Gate
    number: int
    calls: int = 0
    retired: bool = False


class ReloadingGate:
    """Implements :class:`core.ports.Gate` by the gate of the version that serves."""

    def __init__(self, gate: Gate, registry: Registry, load: Load, *, clock: Clock | None = None, every: float = LOOK_EVERY_SECONDS) -> None:
        """:param gate: the shipped one, which serves until :meth:`refresh` finds another. :param every: seconds between two looks."""
        self._serving = _Serving(gate, SHIPPED_VERSION)
        self._registry, self._load = registry, load
        self._clock, self._every = clock or SystemClock(), every
        self._seen = b""
        self._watching: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.refused = ""

    @property
    def number(self) -> int:
        """The version that serves; 0 is the shipped one."""
        return self._serving.number

    @property
    def versions(self) -> frozenset[GateVersion]:
        """Those of the gate that serves."""
        return versions_of(self._serving.gate)

    def watch(self) -> None:
        """Look at the registry from time to time, until :meth:`close`."""
        self._watching = asyncio.create_task(self._watch(), name="adapter-reload")

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        """See :class:`core.ports.Gate`. A call that is under way when another version takes over ends with the gate that it began with."""
        serving = self._serving
        serving.calls += 1
        try:
            return await serving.gate.judge(questions)
        finally:
            serving.calls -= 1
            self._close_if_idle(serving)

    async def refresh(self) -> bool:
        """Look once. True when another version serves now; ``refused`` says why the one that is set to serve does not, "" when it does."""
        try:
            stamp = await asyncio.to_thread(self._registry.stamp)
            if stamp == self._seen:
                return False
            self._seen, self.refused = stamp, ""
            version = await asyncio.to_thread(self._registry.serving)
            number = version.number if version is not None else SHIPPED_VERSION
            if number == self._serving.number:
                return False
            gate = await self._proven(version)
        except Exception as error:  # whatever a model file does, the old gate serves on
            self._refuse(str(error) if isinstance(error, DoujieError) else f"{type(error).__name__}: {error}")
            return False
        self._swap(_Serving(gate, number))
        return True

    def _refuse(self, problem: str) -> None:
        if problem != self.refused:  # said once, also when every look finds the same
            self.refused = problem
            log.error("adapter_refused", problem=problem, serving=self._serving.number)

    async def _proven(self, version: Version | None) -> Gate:
        """The gate of ``version``, after it has answered. Raises DoujieError for one that does not."""
        gate = await self._load(version)
        try:
            (verdict,) = await gate.judge([_PROBE])
            if not math.isfinite(verdict.probability):
                raise BackendError("registry", "the new gate answers garbage: its probability is no finite number")
        except BaseException:
            await gate.close()
            raise
        return gate

    def _swap(self, new: _Serving) -> None:
        old, self._serving = self._serving, new
        old.retired = True
        log.info("adapter_swapped", before=old.number, serving=new.number)
        self._close_if_idle(old)

    def _close_if_idle(self, serving: _Serving) -> None:
        if serving.retired and serving.calls == 0:
            serving.retired = False  # once is enough
            task = asyncio.create_task(serving.gate.close())
            self._closing.add(task)
            task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("old_gate_not_closed", problem=str(error))

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(self._every)
            await self.refresh()

    async def close(self) -> None:
        """Stop looking and free the models. Idempotent."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._serving.gate.close()


async def open_version(version: Version, config: Config, worker: ModelWorker, open_head: OpenHead) -> CascadeGate:
    """The gate of a version: its adapter on the model of ``[gate]`` by llama.cpp, its head and its calibration. ``[gate] threshold`` goes before the stored one.

    :raises DoujieError: for files that cannot be used, or an adapter of another model.
    """
    calibration = GateCalibration.load(version.calibration)
    if calibration.prompt not in GATE_PROMPTS:
        raise InputError(str(version.calibration), f"the prompt version {calibration.prompt!r} is not known here", f"Known: {', '.join(GATE_PROMPTS)}; is doujie up to date?")
    section = config.gate.model_copy(update={"backend": "llama_cpp", "adapter": str(version.adapter)})
    opened = await open_language_models(ModelSource("gate", section, worker, section.threads, section.device, None), "llama_cpp", lambda note: None)
    model = opened[0].model
    try:
        if model.name != version.base:
            raise ConfigError(
                "gate", "model", model.name, f"version {version.number} was trained on {version.base}", "Set that model, or promote a version of this one.", config.source
            )
        # Another calibration makes other verdicts of the same head: they must not bear the same name.
        head = await open_head(version.head, f"@{version.number:04d}") if section.encoder and version.head is not None else None
        return CascadeGate(model, head, calibration, worker, threshold=section.threshold, prompt=config.gate.prompt)
    except BaseException:
        await close_all(opened)
        raise
