"""What ``--check`` of a platform reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``remedy`` says in one line how to cure it; empty when ``ok``."""

    ok: bool
    what: str
    remedy: str = ""
