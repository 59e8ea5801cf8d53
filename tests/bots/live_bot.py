"""Bots in processes of their own, for tests that kill them: ``python -m tests.bots.live_bot CONFIG PLATFORM...``.

The program imports everything once. For each line ``SECONDS`` on its standard input it forks a bot whose clock is that much ahead, and writes the bot's process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bots.live import live
from bots.replay import ScaledClock
from core.config import Config, load_config
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


def main(path: Path, platforms: Sequence[str]) -> None:
    config = load_config(path)
    _import_clients(platforms)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a bot that was killed
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            os.close(0)
            _run(config, platforms, float(line))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


def _import_clients(platforms: Sequence[str]) -> None:
    if "feishu" in platforms:
        from adapters.feishu import sdk

        sdk.load()
    if "wechat" in platforms:
        from adapters.wechat.wechaty_compat import import_wechaty

        import_wechaty()


def _run(config: Config, platforms: Sequence[str], later: float) -> None:
    """A bot from start to end. Never returns: what stands behind the fork is the parent's."""
    code = 1
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        configure_logs(config.bot.log_level, config.bot.log_format, secrets_of(config))
        clock = ScaledClock(datetime.now(UTC) + timedelta(seconds=later), 1.0)
        code = asyncio.run(live(config, platforms, clock=clock, models=rule_models()))
    os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
