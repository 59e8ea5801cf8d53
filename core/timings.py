"""How stages outside the pipeline report their times, without knowing who measures."""

from __future__ import annotations

from typing import Protocol


class Observe(Protocol):
    """Takes the time of one run of a stage."""

    def __call__(self, stage: str, seconds: float) -> None: ...


def unobserved(stage: str, seconds: float) -> None:
    """For runs that nobody measures."""
