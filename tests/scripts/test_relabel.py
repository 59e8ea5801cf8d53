"""The command on a real database and a loopback model server: what flips, what the report says and does not say, what is queued."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from scripts.export import app as export_app
from scripts.relabel import app
from storage.engine import open_database
from storage.inbox import SqlInbox
from storage.labels import LabelValue, SqlLabels
from storage.questions import SqlQuestionLog
from storage.review_queue import QueueItem, SqlReviewQueue
from tests.core.gates.model_server import ModelServer, likely, model_server
from tests.storage.samples import ask, message, resolution, verdict

TEXTS = ("它支持移动端么 13812345678", "怎么把 mmpose 部署到 TX2？", "那个工具怎么标注呢", "有人用过 openvino 吗")
KEYS = [message(number).key for number in range(len(TEXTS))]
SINCE = ("--since", "2026-01-01")


@contextmanager
def served(**settings: Any) -> Iterator[ModelServer]:
    """A model server in a thread of its own, for commands that have a loop of their own."""
    loop, ready, box, stop = asyncio.new_event_loop(), threading.Event(), list[ModelServer](), asyncio.Event()

    async def serve() -> None:
        async with model_server(**settings) as server:
            box.append(server)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield box[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Four questions: judged yes, yes, no, and not judged; the second has a label."""
    path = tmp_path / "config.ini"
    path.write_text(f"[storage]\nurl = sqlite:///{tmp_path / 'log.db'}\n[gate]\nbackend = none\n[bot]\nlog_format = json\n")

    async def fill() -> None:
        database = await open_database(f"sqlite:///{tmp_path / 'log.db'}")
        said = [message(number, text) for number, text in enumerate(TEXTS)]
        await SqlInbox(database).add(said)
        log = SqlQuestionLog(database)
        await log.record_many([ask(one) for one in said])
        for key, probability in zip(KEYS, (0.9, 0.8, 0.1), strict=False):
            await log.judged(key, verdict(probability))
            await log.resolved(key, resolution("补全的问题"))
        await SqlLabels(database).add(KEYS[1], "anna", LabelValue.NO)
        await database.close()

    asyncio.run(fill())
    return path


def relabel(config: Path, server: ModelServer, *options: str) -> Result:
    return CliRunner().invoke(app, ["--config", str(config), "--base-url", server.url, "--model", "base", *SINCE, *options])


def pronouns(prompt: str) -> dict[str, float]:
    """A model that says yes where the question holds a pronoun."""
    question = prompt.split("问题：")[-1]
    return likely(0.9, 0.05) if any(word in question for word in ("它", "那个")) else likely(0.05, 0.9)


def queue(config: Path) -> list[QueueItem]:
    async def top() -> list[QueueItem]:
        database = await open_database(f"sqlite:///{config.parent / 'log.db'}")
        found = await SqlReviewQueue(database).top(10)
        await database.close()
        return found

    return asyncio.run(top())


def test_what_flipped_is_told_by_id_and_texts_stand_only_in_the_file(config: Path) -> None:
    out = config.parent / "report.json"
    with served(listed=pronouns) as server:
        run = relabel(config, server, "--json", str(out))
    assert run.exit_code == 0, run.output
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["questions"] == {"chosen": 4, "judged": 4, "judged_first": 1, "failed": 0, "erased": 0}
    (to_no,), (to_yes,) = report["flips"]["to_no"], report["flips"]["to_yes"]
    assert (to_no["id"], to_yes["id"]) == (KEYS[1], KEYS[2])
    assert to_no["before"] == {"probability": 0.8, "threshold": 0.5, "model": "tiny", "adapter": "group-lora", "prompt_version": "v1", "stage": "lm"}
    assert to_no["after"]["probability"] == pytest.approx(0.05 / 0.95)
    assert report["versions"] == [{"model": "base", "adapter": "", "prompt_version": "gate-rule", "stage": "lm", "judged": 4, "needs_resolution": 2}]
    assert "13812345678" not in out.read_text(encoding="utf-8")
    assert "4 of 4 judged, 1 flipped to yes, 1 to no" in run.stdout
    assert not any(text[:6] in run.output for text in TEXTS), "the terminal shows ids and figures alone"


def test_a_report_that_cannot_be_written_is_shown_all_the_same(config: Path) -> None:
    """The next run judges nothing: what flipped would never be told again."""
    with served(listed=pronouns) as server:
        run = relabel(config, server, "--json", str(config.parent / "no" / "report.json"))
    assert run.exit_code == 2
    assert "report.json: cannot be written" in run.stderr
    assert "4 of 4 judged, 1 flipped to yes, 1 to no" in run.stdout
    assert all(key in run.stdout for key in (KEYS[1], KEYS[2]))


def test_the_queue_is_filled_with_what_the_models_see_differently(config: Path) -> None:
    with served(listed=pronouns) as server:
        assert relabel(config, server).exit_code == 0
    found = {item.question_id: item.reason.value for item in queue(config)}
    assert found[KEYS[2]] == "disagreement"
    assert KEYS[1] not in found, "it has a label"
    assert found[KEYS[3]] == "new_words"


def test_a_second_run_judges_nothing_and_another_prompt_judges_again(config: Path) -> None:
    with served(listed=pronouns) as server:
        relabel(config, server, "--limit", "3")
        assert "1 of 1 judged" in relabel(config, server).stdout
        before = len(server.requests)
        assert "0 of 0 judged" in relabel(config, server).stdout
        assert not [path for path, _ in server.requests[before + 8 :]], "only the server is tried out"
        assert "4 of 4 judged" in relabel(config, server, "--prompt", "gate-1").stdout
        assert "4 of 4 judged" in relabel(config, server).stdout, "so that its verdicts are the current ones again"


def test_exports_show_the_newest_verdict_and_the_rewrite_of_the_group(config: Path) -> None:
    with served(listed=pronouns) as server:
        relabel(config, server)
    out = config.parent / "out.jsonl"
    CliRunner().invoke(export_app, ["--config", str(config), "--format", "jsonl", "--out", str(out)])
    record = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()][1]
    assert (record["model"], record["needs_resolution"], record["rewrite"], record["label"]) == ("base", False, "补全的问题", "no")


def test_a_server_that_goes_away_ends_the_run_and_the_next_one_goes_on(config: Path) -> None:
    def listed(prompt: str) -> dict[str, float]:
        if "openvino" in prompt:
            raise RuntimeError("out of memory")  # status 500
        return likely()

    with served(listed=listed) as server:
        run = relabel(config, server, "--limit", "3")
        assert run.exit_code == 1
        assert "stopped: back end" in run.stderr
        assert "the same command goes on" in run.stderr
        server.listed = pronouns
        again = relabel(config, server)
    assert again.exit_code == 0, again.output
    assert "4 of 4 judged" in again.stdout


def test_beside_a_bot_that_holds_the_database_for_a_moment(config: Path) -> None:
    bot = sqlite3.connect(config.parent / "log.db", isolation_level=None, check_same_thread=False)
    released = threading.Event()

    def listed(prompt: str) -> dict[str, float]:
        if not released.is_set() and "它支持" in prompt:
            bot.execute("BEGIN IMMEDIATE")
            threading.Timer(0.2, lambda: (bot.execute("ROLLBACK"), released.set())).start()
        return likely()

    with served(listed=listed) as server:
        run = relabel(config, server)
    assert run.exit_code == 0, run.output
    assert released.is_set()
    assert "4 of 4 judged" in run.stdout
    bot.close()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--since", "yesterday"], "--since yesterday: is no time"),
        (["--backend", "cuda"], "[relabel] backend"),
        ([], "judging again needs a model"),
        (["--model", "none.gguf", "--backend", "llama_cpp"], "[relabel] model = 'none.gguf': file not found"),
        (["--prompt", "gate-99", "--backend", "llama_cpp"], "[relabel] prompt = 'gate-99': no such prompt version"),
        (["--base-url", "http://127.0.0.1:1/v1"], "[relabel] base_url"),
    ],
)
def test_mistakes_are_one_line(config: Path, options: list[str], problem: str) -> None:
    run = CliRunner().invoke(app, ["--config", str(config), *options])
    assert run.exit_code == 2
    assert problem in run.stderr
    assert len([line for line in run.stderr.strip().splitlines() if not line.startswith("{")]) == 1
