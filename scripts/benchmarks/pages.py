"""A log of many questions, inserted in bulk: ``python -m scripts.benchmarks.pages`` tells how long the labelling page and the dashboard take to read from it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from storage.dashboard import SqlDashboard
from storage.disagreements import SqlDisagreements
from storage.engine import open_database
from storage.labelling import SqlLabelling

COUNT = 100_000
_START = datetime(2026, 1, 1, tzinfo=UTC)


def fill(path: Path, count: int = COUNT, *, labelled: range = range(0)) -> None:
    """Questions ``q000000`` and so on, a minute apart, each with a message and a verdict; those of ``labelled`` with a label of anna, every tenth of them also of ben."""

    def at(number: int) -> str:
        return (_START + timedelta(minutes=number)).strftime("%Y-%m-%d %H:%M:%S.%f")

    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO messages (platform, chat_id, message_id, sender_id, sender_name, kind, text, sent_at, received_at, utterance_id) "
            "VALUES ('feishu', ?, ?, 'u1', '张三', 'text', '怎么把它部署到 TX2？', ?, ?, ?)",
            ((f"g{n % 20}", f"m{n}", at(n), at(n), f"q{n:06}") for n in range(count)),
        )
        connection.execute("INSERT INTO chats SELECT DISTINCT platform, chat_id, chat_id, '2026-01-01 00:00:00.000000' FROM messages")
        connection.executemany(
            "INSERT INTO questions (id, platform, chat_id, chat_name, sender_id, sender, text, asked_at, context, message_ids, glossary, rule, status, created_at) "
            "VALUES (?, 'feishu', ?, '技术群', 'u1', '张三', '怎么把它部署到 TX2？', ?, '[]', '[]', '[]', 'how', 'done', ?)",
            ((f"q{n:06}", f"g{n % 20}", at(n), at(n)) for n in range(count)),
        )
        connection.executemany(
            "INSERT INTO verdicts (question_id, model, adapter, prompt_version, stage, probability, threshold, latency_ms, judged_at) "
            "VALUES (?, 'tiny', '', 'v1', 'lm', ?, 0.5, 9, ?)",
            ((f"q{n:06}", n % 10 / 10, at(n)) for n in range(count)),
        )
        connection.executemany(
            "INSERT INTO labels (question_id, labeller, label, created_at) VALUES (?, ?, ?, ?)",
            ((f"q{n:06}", name, "yes" if n % 3 else "no", at(n)) for n in labelled for name in (("anna", "ben") if n % 10 == 0 else ("anna",))),
        )


async def _best_of(times: int, work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds of the quickest of ``times`` runs."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - began)
    return min(taken) * 1000


async def _measure(path: Path, labelled: range) -> None:
    database = await open_database(f"sqlite:///{path}")
    await asyncio.to_thread(fill, path, labelled=labelled)
    desk, disagreements, dashboard = SqlLabelling(database), SqlDisagreements(database), SqlDashboard(database)
    print(f"{COUNT:,} questions, {len(labelled):,} labelled")
    reads: dict[str, Callable[[], Awaitable[object]]] = {
        "next question, of who labelled them": partial(desk.next_item, "anna"),
        "next question, of a newcomer": partial(desk.next_item, "carl"),
        "progress": partial(desk.progress, "anna"),
        "agreement": partial(disagreements.standing, "anna"),
        "next disagreement": disagreements.open,
        "dashboard": partial(dashboard.snapshot, _START + timedelta(minutes=COUNT - 5000)),
    }
    for name, read in reads.items():
        print(f"  {name:<38}{await _best_of(5, read):8.1f} ms")
    await database.close()


if __name__ == "__main__":
    for share in (0, 1000, COUNT - 1):
        with tempfile.TemporaryDirectory(prefix="doujie-many-") as folder:
            asyncio.run(_measure(Path(folder) / "d.db", range(COUNT - share, COUNT)))
