"""A bot whose models are two rules, for tests of everything around the models."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bots.live import live
from bots.replay import ScaledClock
from core.config import load_config
from core.gates.factory import Models
from core.gates.worker import ModelWorker
from core.logs import configure_logs, secrets_of
from core.messages import Question, Resolution, Verdict

PRONOUN, ANTECEDENT = "它", "mmpose"


class RuleGate:
    """A question with the pronoun needs resolution."""

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        return [Verdict(float(PRONOUN in question.text), 0.5, "rule", "rule") for question in questions]

    async def close(self) -> None:
        """Nothing is open."""


class RuleResolver:
    """The pronoun always means the same."""

    async def resolve(self, question: Question) -> Resolution:
        rewrite = question.text.replace(PRONOUN, ANTECEDENT)
        return Resolution(rewrite, rewrite, 1.0, "rule", "rule")

    async def close(self) -> None:
        """Nothing is open."""


def rule_models() -> Models:
    return Models(RuleGate(), RuleResolver(), ModelWorker())


def run(config: str, later: float, *platforms: str) -> int:
    """A bot whose clock is ``later`` seconds ahead of the machine's, until a signal ends it. Returns its exit code."""
    settings = load_config(Path(config))
    configure_logs(settings.bot.log_level, settings.bot.log_format, secrets_of(settings))
    clock = ScaledClock(datetime.now(UTC) + timedelta(seconds=later), 1.0)
    return asyncio.run(live(settings, platforms, clock=clock, models=rule_models()))
