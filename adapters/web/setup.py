"""What the pages are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adapters.web.patience import PATIENCE_SECONDS
from adapters.web.texts import Language
from core.clock import Clock, SystemClock
from core.ports import Adapter
from storage.engine import Database


@dataclass(frozen=True, slots=True)
class PagesSetup:
    """``token``: opens the pages; ``home``: where ``/`` leads; ``labeller``: the name where a browser has chosen none; ``adapters``: shown under health, where a bot runs here.

    ``patience``: seconds that an answer may wait for the database before the page says so and tries again.
    """

    database: Database
    token: str = field(repr=False)
    timezone: str = "Asia/Shanghai"
    language: Language = "en"
    home: str = "/dashboard"
    labeller: str = ""
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)
    patience: float = PATIENCE_SECONDS
