"""What an evaluator hands back, and the models it may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from core.head import ReliabilityBin
from core.ports import Gate, Resolver

#: Called with the number of finished steps since the last call.
Advance = Callable[[int], None]


class Models(Protocol):
    """The part of the wired models that is measured."""

    @property
    def gate(self) -> Gate | None: ...

    @property
    def resolver(self) -> Resolver | None: ...


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one task on one file. ``n``: items scored. ``metrics`` are the fixed ones; the rest stands beside them in the JSON.

    ``baselines``: name -> metrics of something trivial on the same items. ``breakdown``: grouping -> group -> metrics. ``curve``: points as a threshold moves.
    ``reliability``: how far the gate's probabilities can be taken at their word.
    """

    task: str
    n: int
    metrics: dict[str, float | int | None]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    breakdown: dict[str, dict[str, dict[str, float | int | None]]] = field(default_factory=dict)
    curve: list[dict[str, float | int]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reliability: list[ReliabilityBin] = field(default_factory=list)

    def as_dict(self, file: str) -> dict[str, Any]:
        record: dict[str, Any] = {"file": file, "n": self.n, "task": self.task, "metrics": self.metrics}
        for name in ("baselines", "breakdown", "curve", "details"):
            if getattr(self, name):
                record[name] = getattr(self, name)
        if self.reliability:
            record["reliability"] = [asdict(found) for found in self.reliability]
        if self.notes:
            record["notes"] = list(self.notes)
        return record
