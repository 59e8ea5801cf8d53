"""A model server is killed in the middle of 200 questions: the whole pipeline, real processes, the real database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from adapters.web.metrics import Metrics, Sources
from bots.wiring import Spine, open_spine
from core.config import Config, load_config
from core.gates.failover import COOL_DOWN_SECONDS, FAILURES_TO_OPEN
from core.messages import Message
from storage.models import verdicts
from tests.adapters.manual_clock import ManualClock, eventually
from tests.core.gates.llama_server import LlamaServer, smollm2

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
QUESTIONS = 200
KILLED_AFTER = 24
SERVER = "smollm2-on-server"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LlamaServer]:
    made = LlamaServer(smollm2(), tmp_path / "server.log", context_tokens=128, alias=SERVER)
    made.start()
    yield made
    made.stop()


def config_for(server: LlamaServer, folder: Path) -> Config:
    """The server before the same model in this process. Shortest prompt, for the sake of time; the time-out is far off, so that only the kill is a failure."""
    gate = {"base_url": server.url, "model": str(smollm2()), "adapter": "none", "prompt": "gate-1", "encoder": False, "context_tokens": 64, "threads": 1, "timeout_seconds": 300}
    return load_config(None, {}, gate=gate, resolver={"backend": "none"}, storage={"url": f"sqlite+aiosqlite:///{folder / 'doujie.db'}"})


async def ask(spine: Spine, numbers: range) -> None:
    """Store a question of a member of its own for each number, and have all of them judged."""
    for number in numbers:
        said = f"is board {number} ok? yes or no? is board {number + 1} ok? yes or no?"
        await spine.ingest.message(Message("test", "g", f"m{number}", f"u{number}", said, START + timedelta(minutes=10 * number)))
    await spine.pipeline.flush()


async def judged_by(spine: Spine) -> dict[str, list[str]]:
    """Models whose verdicts are in the database, by question."""
    async with spine.database.read() as connection:
        rows = await connection.execute(sa.select(verdicts.c.question_id, verdicts.c.model))
    found: dict[str, list[str]] = {}
    for question_id, model in rows:
        found.setdefault(question_id, []).append(model)
    return found


@pytest.mark.model
async def test_each_of_200_questions_is_judged_once_when_the_server_is_killed_in_the_middle(server: LlamaServer, tmp_path: Path) -> None:
    clock, metrics = ManualClock(START), Metrics()
    with capture_logs() as logs:
        async with open_spine(config_for(server, tmp_path), live=False, collect_all=True, clock=clock) as spine:
            metrics.watch(Sources({}, failovers=spine.models.failovers))
            asking = asyncio.create_task(ask(spine, range(QUESTIONS)))
            await eventually(lambda: spine.pipeline.counts.judged >= KILLED_AFTER, timeout=300)
            server.kill()
            await asking
            found = await judged_by(spine)
            shares = Counter(model for (model,) in found.values())  # one verdict each, or this fails
            assert len(found) == QUESTIONS
            assert shares[SERVER] >= KILLED_AFTER
            assert shares[smollm2().stem] >= QUESTIONS // 2
            assert sum(shares.values()) == QUESTIONS
            handed_over = [line for line in logs if line["event"] == "model_failover"]
            assert [(line["stage"], line["source"], line["target"]) for line in handed_over] == [("gate", "openai", "llama_cpp")] * FAILURES_TO_OPEN
            assert [line["backend"] for line in logs if line["event"] == "model_left_alone"] == ["openai"]
            assert f'doujie_model_failovers_total{{stage="gate"}} {FAILURES_TO_OPEN}.0' in (await metrics.render()).decode()

            server.start()
            await clock.advance(COOL_DOWN_SECONDS)
            await ask(spine, range(QUESTIONS, QUESTIONS + 2))
            assert [line["backend"] for line in logs if line["event"] == "model_recovered"] == ["openai"]
            assert Counter(model for (model,) in (await judged_by(spine)).values())[SERVER] == shares[SERVER] + 2
