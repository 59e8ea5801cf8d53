"""Judging logged questions again, with a newer model, adapter or prompt: what the bot did in its groups stays, the new verdicts stand beside the old ones.

Inside a bot this works at a low pace: one question at a time, only while no live question waits, and resting longer than it works.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from core.clock import Clock, SystemClock
from core.config import Config
from core.errors import BackendError, ConfigError
from core.gates.factory import Models, open_models
from core.gates.limits import PromptTooLongError
from core.gates.worker import ModelWorker
from core.messages import GateVersion, Question, Verdict
from core.ports import Gate, versions_of

log = structlog.get_logger(__name__)

#: Calls in a row that may fail before a run gives up: the rest waits for the next one.
FAILURES_TO_STOP = 3
_LOOK_AGAIN_SECONDS = 1.0
_GATE_KEYS = ("backend", "model", "adapter", "base_url", "prompt")


@dataclass(frozen=True, slots=True)
class Pace:
    """``together``: questions in one call of the gate; ``rest``: pause after a call, as a multiple of what it took; ``busy`` tells that live questions wait, which go first."""

    together: int = 16
    rest: float = 0.0
    busy: Callable[[], bool] = field(default=lambda: False)


@dataclass(frozen=True, slots=True)
class Judged:
    """A question that was judged again. ``before``: its newest verdict until then, None where nobody had judged it."""

    question: Question
    before: Verdict | None
    after: Verdict

    @property
    def flipped(self) -> bool:
        return self.before is not None and self.before.needs_resolution is not self.after.needs_resolution


class RelabelLog(Protocol):
    """What is read and written. All methods raise :class:`core.errors.StorageError`."""

    async def not_last_judged_by(self, versions: Collection[GateVersion], since: datetime | None, limit: int) -> list[str]:
        """Ids of the newest questions, asked at ``since`` or later, whose newest verdict is of none of ``versions``, newest first."""

    async def with_verdicts(self, question_ids: Sequence[str]) -> list[tuple[Question, Verdict | None]]:
        """The questions that are still in the log, with their newest verdicts."""

    async def append(self, judged: Sequence[tuple[str, Verdict]]) -> list[str]:
        """Store verdicts. Returns the ids of the questions that are still in the log."""


@dataclass(slots=True)
class RelabelReport:
    """What a run did. ``failed``: questions that the model could not judge; ``erased``: that members had erased meanwhile.

    ``stopped``: what the back end did wrong at the end, "" when all was well; ``seconds``: duration; ``counts``: questions judged and needing resolution, by version and stage.
    """

    began_at: datetime
    versions: frozenset[GateVersion] = frozenset()
    chosen: int = 0
    judged: int = 0
    judged_first: int = 0
    failed: int = 0
    erased: int = 0
    seconds: float = 0.0
    stopped: str = ""
    to_yes: list[Judged] = field(default_factory=list)
    to_no: list[Judged] = field(default_factory=list)
    counts: dict[tuple[GateVersion, str], tuple[int, int]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """One line without texts."""
        parts = [f"{self.judged} of {self.chosen} judged", f"{len(self.to_yes)} flipped to yes", f"{len(self.to_no)} to no"]
        parts += [f"{count} {what}" for count, what in ((self.failed, "failed"), (self.erased, "erased meanwhile")) if count]
        return ", ".join(parts) + (f"; stopped: {self.stopped}" if self.stopped else "")

    def add(self, one: Judged) -> None:
        self.judged += 1
        self.judged_first += one.before is None
        if one.flipped:
            (self.to_yes if one.after.needs_resolution else self.to_no).append(one)
        judged, needing = self.counts.get((one.after.version, one.after.stage), (0, 0))
        self.counts[one.after.version, one.after.stage] = judged + 1, needing + one.after.needs_resolution


class Relabeller:
    """Judges with ``gate`` what ``store`` holds."""

    def __init__(self, gate: Gate, store: RelabelLog, pace: Pace | None = None, clock: Clock | None = None) -> None:
        self._gate, self._store, self._pace, self._clock = gate, store, pace or Pace(), clock or SystemClock()

    async def run(self, since: datetime | None, limit: int, on_progress: Callable[[int, int], None] = lambda done, total: None) -> RelabelReport:
        """Judge the newest ``limit`` questions since ``since`` that this gate was not the last to judge. ``on_progress`` is told how many of how many are done.

        What is judged is stored as it comes: a run that is cut short goes on with the next one. A question that another gate judged in between is judged once more, so that the
        verdict of the gate that was asked last is the current one. Raises StorageError.
        """
        report = RelabelReport(self._clock.now(), versions_of(self._gate))
        began, failures = self._clock.monotonic(), 0
        ids = await self._store.not_last_judged_by(report.versions, since, limit)
        report.chosen = len(ids)
        for start in range(0, len(ids), self._pace.together):
            while self._pace.busy():
                await self._clock.sleep(_LOOK_AGAIN_SECONDS)
            batch = ids[start : start + self._pace.together]
            called = self._clock.monotonic()
            problem = await self._judge(batch, report)
            failures = failures + 1 if problem else 0
            on_progress(min(start + len(batch), len(ids)), len(ids))
            report.stopped = problem if failures else ""
            if failures == FAILURES_TO_STOP:
                break
            if self._pace.rest and start + len(batch) < len(ids):
                await self._clock.sleep(self._pace.rest * (self._clock.monotonic() - called))
        report.seconds = self._clock.monotonic() - began
        return report

    async def _judge(self, ids: Sequence[str], report: RelabelReport) -> str:
        """Judge and store some questions. Returns what is wrong with the back end, "" for nothing."""
        logged = await self._store.with_verdicts(ids)
        report.erased += len(ids) - len(logged)
        verdicts, problem = await self._verdicts([question for question, _ in logged])
        stored = set(await self._store.append([(question.id, verdict) for (question, _), verdict in zip(logged, verdicts, strict=True) if verdict is not None]))
        for (question, before), verdict in zip(logged, verdicts, strict=True):
            if verdict is None:
                report.failed += 1
            elif question.id in stored:
                report.add(Judged(question, before, verdict))
            else:
                report.erased += 1
        return problem

    async def _verdicts(self, questions: Sequence[Question]) -> tuple[list[Verdict | None], str]:
        """One verdict for each question, None where there is none, and what is wrong with the back end."""
        if not questions:
            return [], ""
        try:
            return list(await self._gate.judge(questions)), ""
        except PromptTooLongError as error:
            log.debug("relabel_question_too_long", problem=error.problem)
            if len(questions) == 1:
                return [None], ""
        except BackendError as error:
            log.warning("relabel_backend_failed", backend=error.backend, problem=error.problem, questions=len(questions))
            return [None] * len(questions), str(error)
        singly = [await self._verdicts([question]) for question in questions]  # one of them is too long: the others are not to suffer
        return [verdict for verdicts, _ in singly for verdict in verdicts], next((problem for _, problem in singly if problem), "")


def uses_serving_gate(config: Config) -> bool:
    """True when ``[relabel]`` names nothing of its own: the bot's gate judges again what older ones judged."""
    return not _named(config)


def relabel_config(config: Config) -> Config:
    """The config of the gate that judges again, without a resolver: ``[gate]`` with what ``[relabel]`` sets otherwise.

    A model or server of its own begins with the defaults, for adapter, prompt and threshold of ``[gate]`` belong to another model; with an adapter of its own the threshold does.
    A named server has no other model to fall back on: verdicts of that one would not be what was asked for. Raises ConfigError when there is no model at all.
    """
    named = _named(config)
    changes: dict[str, object] = {"threshold": None} if named.keys() & {"model", "base_url", "adapter"} else {}
    if named.keys() & {"model", "base_url"}:
        changes |= {"backend": "openai" if "base_url" in named else "auto", "adapter": "none", "base_url": "", "prompt": ""}
    changes |= named
    gate = config.gate.model_copy(update=changes)
    if gate.backend == "none":
        remedy = "Set [relabel] backend (or --backend) to auto, llama_cpp, transformers or openai."
        raise ConfigError("relabel", "backend", None, "judging again needs a model, and [gate] backend is none", remedy, config.source)
    return config.model_copy(update={"gate": gate, "resolver": config.resolver.model_copy(update={"backend": "none"})})


async def open_relabel_models(config: Config, worker: ModelWorker | None = None, on_step: Callable[[str], None] = lambda step: None) -> Models:
    """Load the gate that judges again. ``worker``: of a running bot, so that its models and this one never work at the same time. Raises ConfigError."""
    try:
        return await open_models(relabel_config(config), on_step, worker)
    except ConfigError as error:
        section = "relabel" if error.key in _named(config) else error.section
        raise ConfigError(section, error.key, error.value, error.problem, error.remedy, error.source) from None


def _named(config: Config) -> dict[str, str]:
    """The keys of a gate that ``[relabel]`` sets."""
    values = {key: getattr(config.relabel, key) for key in _GATE_KEYS}
    return {key: value for key, value in values.items() if value}
