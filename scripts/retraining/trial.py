"""A candidate against what serves, on the same frozen questions, each as it would serve."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from core.config import Config
from core.errors import InputError
from core.gates.factory import open_version_alone
from core.messages import Verdict
from core.registry import Registry, Version
from scripts.evaluation.metrics import Confusion, auc
from scripts.resampling import Difference, compare_f1
from scripts.scaling_law.items import Item

#: All trials of a registry, one line each.
TRIALS = "trials.jsonl"
_BATCH = 16
#: Called with the number of questions that are judged since the last call.
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Figures:
    """One gate on the test set, at its own threshold. ``auc`` is None where all labels are equal."""

    precision: float
    recall: float
    f1: float
    auc: float | None

    def as_dict(self) -> dict[str, float | None]:
        return {"precision": round(self.precision, 4), "recall": round(self.recall, 4), "f1": round(self.f1, 4), "auc": None if self.auc is None else round(self.auc, 4)}


@dataclass(frozen=True, slots=True)
class Trial:
    """``change``: F1 of the candidate minus F1 of what serves, over paired resamples of the items."""

    candidate: Figures
    serving: Figures
    change: Difference
    items: int

    @property
    def better(self) -> bool:
        """Beyond noise: one-sided at 95%."""
        return self.change.above_noise

    def as_dict(self) -> dict[str, Any]:
        change = {name: round(getattr(self.change, name), 4) for name in ("value", "low", "high", "p")}
        return {"items": self.items, "candidate": self.candidate.as_dict(), "serving": self.serving.as_dict(), "f1_change": change, "better": self.better}


async def compare(candidate: Version | None, serving: Version | None, items: Sequence[Item], config: Config, *, resamples: int, seed: int, advance: Advance) -> Trial:
    """Judge all items by both gates. ``None`` is what comes with doujie. Raises DoujieError for a gate that cannot be opened, or fails."""
    # One after the other: two models in memory at once would be one too many on a small machine.
    judged = [await _judge(version, items, config, advance) for version in (candidate, serving)]
    truth = [item.needs_resolution for item in items]
    said = [[verdict.needs_resolution for verdict in verdicts] for verdicts in judged]
    change, _ = compare_f1(truth, said[0], said[1], resamples, seed)
    first, second = (_figures(truth, verdicts) for verdicts in judged)
    return Trial(first, second, change, len(items))


async def _judge(version: Version | None, items: Sequence[Item], config: Config, advance: Advance) -> list[Verdict]:
    # The threshold and prompt that a gate was calibrated with, not those that the admin may have set for another.
    own = config.model_copy(update={"gate": config.gate.model_copy(update={"threshold": None, "prompt": ""})})
    models = await open_version_alone(version, own)
    try:
        assert models.gate is not None
        verdicts: list[Verdict] = []
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            verdicts += await models.gate.judge([item.question for item in batch])
            advance(len(batch))
        return verdicts
    finally:
        await models.close()


def _figures(truth: Sequence[bool], verdicts: Sequence[Verdict]) -> Figures:
    confusion = Confusion.of(truth, [verdict.needs_resolution for verdict in verdicts])
    return Figures(confusion.precision, confusion.recall, confusion.f1, auc(truth, [verdict.probability for verdict in verdicts]))


def record_trial(registry: Registry, version: int, trial: Trial, decision: str) -> None:
    """Append a trial to the registry's list. Raises InputError when the disk does not take it."""
    record = {"version": version, "at": datetime.now(UTC).isoformat(timespec="seconds"), "decision": decision, **trial.as_dict()}
    try:
        with (registry.folder / TRIALS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise InputError(str(registry.folder / TRIALS), f"cannot be written: {error.strerror}", "Is the disk full?") from None


def trials_of(registry: Registry) -> dict[int, dict[str, Any]]:
    """The last trial of each version. A line that a kill cut in half is no trial."""
    found: dict[int, dict[str, Any]] = {}
    path = registry.folder / TRIALS
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            found[int(record["version"])] = record
        except (ValueError, KeyError, TypeError):
            continue
    return found


def is_tried(registry: Registry, version: int) -> bool:
    """Whether this version had its trial: a run may have been killed before it."""
    return version in trials_of(registry)
