"""The whole loop by its real commands (``make train-smoke``, some minutes): from an empty database to a running bot that judges with an adapter trained on what was labelled."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from scripts.training.data import load_samples
from tests.adapters.manual_clock import eventually
from tests.adapters.web.chromium import TIMEOUT_MS, open_chromium, press, require_chromium, shown_question
from tests.bots.live_wires import free_port
from tests.bots.test_live_gateways import GROUP, SECRET, Phone
from tests.bots.warm import PATIENCE

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[2]
LABELLED = 30
COMMAND_SECONDS = 1800.0
JUDGED = "questions q LEFT JOIN verdicts v ON v.question_id = q.id"


def write_labels(folder: Path) -> tuple[Path, Path]:
    """200 labelled questions of the example windows to learn from, and 100 others as the test set, half of them in need of resolution."""
    samples = load_samples([ROOT / "examples" / "windows" / "base.jsonl"])
    seen: set[str] = set()
    by_label: dict[str, list[dict[str, Any]]] = {"yes": [], "no": []}
    for sample in samples:
        if sample.label in by_label and sample.question not in seen:
            seen.add(sample.question)
            lines = [{"sender": line.sender, "text": line.text} for line in sample.context]
            by_label[sample.label].append({"id": sample.id, "sender": sample.sender, "question": sample.question, "context": lines, "label": sample.label})
    mixed = [record for pair in zip(by_label["yes"], by_label["no"], strict=False) for record in pair]
    for name, part in (("labels", mixed[:200]), ("test", mixed[200:300])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in part), encoding="utf-8")
    return folder / "labels.jsonl", folder / "test.jsonl"


async def run(module: str, *arguments: object) -> str:
    """What a command printed; it must succeed."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *map(str, arguments), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(COMMAND_SECONDS):
        out, err = await process.communicate()
    assert process.returncode == 0, f"{module}: {err.decode()[-2000:]}"
    return out.decode()


@asynccontextmanager
async def running(log: Path, module: str, *arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command that serves until it is interrupted, and then ends without an error."""
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *map(str, arguments), cwd=ROOT, stdout=file, stderr=asyncio.subprocess.STDOUT)
    try:
        yield process
        assert process.returncode is None, end_of(log)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0, end_of(log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8")[-2000:]


def rows(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


async def label(page: Page, address: str) -> None:
    """Thirty answers by keyboard alone: whoever reads a pronoun presses J."""
    page.set_default_timeout(TIMEOUT_MS)
    await page.goto(address)
    await expect(page.locator("input[name=name]")).to_be_focused()
    await page.keyboard.type("安娜")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#answer")
    for _ in range(LABELLED):
        text = await page.locator("#question").inner_text()
        await press(page, "j" if re.search(r"[它这那]|上面", text) else "k")
    assert await shown_question(page)  # there are more: the chat has over fifty questions


async def test_from_an_empty_database_to_a_bot_that_judges_with_what_was_labelled(tmp_path: Path) -> None:
    require_chromium()
    database, registry, port = tmp_path / "doujie.db", tmp_path / "models", free_port()
    more, test = write_labels(tmp_path)
    config = tmp_path / "config.ini"
    config.write_text(
        f"[bot]\ngroups = {GROUP}\nreply = off\n[merge]\nwindow_seconds = 1\nfinished_window_seconds = 1\n[resolver]\nbackend = none\n[storage]\nurl = sqlite:///{database}\n"
        f"[wechat]\nprovider = android\nlisten = 127.0.0.1:{port}\nsecret = {SECRET}\nwcid = 豆解\n[relabel]\nregistry = {registry}\ntest_set = {test}\n",
        encoding="utf-8",
    )

    await run("bots.replay", ROOT / "examples" / "group_chat.jsonl", "--config", config)
    assert rows(database, "SELECT count(*) FROM verdicts")[0][0] > LABELLED

    async with running(tmp_path / "label.log", "scripts.label", "--config", config):
        address = await eventually_printed(tmp_path / "label.log", r"http://\S+")
        async with open_chromium() as chromium:
            await label(await chromium.new_page(), address)
    assert rows(database, "SELECT count(DISTINCT question_id) FROM labels")[0][0] == LABELLED - 1  # one in twenty is a second look

    snapshot = Path((await run("scripts.snapshot", "--config", config, "--out", tmp_path / "snapshots")).strip().splitlines()[-1])
    await run("scripts.scaling", "bare=packaged", "shipped=packaged@shipped", "--data", snapshot, "--out", tmp_path / "scaling")
    report = (tmp_path / "scaling" / "report.html").read_text(encoding="utf-8")
    assert report.count("<svg") + report.count("data:image/") >= 1
    assert {"bare", "shipped"} <= set(re.findall(r"bare|shipped", report))

    async with running(tmp_path / "bot.log", "bots.wechat", "--config", config), Phone(port) as phone:
        asked: list[str] = []

        async def ask() -> list[tuple[str, str]]:
            """Another question; the latest verdict with the name of its model and adapter."""
            asked.append(f"第 {len(asked)} 次问：它怎么部署到 TX{len(asked)}？")
            await phone.say(asked[-1])
            verdict = f"SELECT v.model, v.adapter FROM {JUDGED} WHERE q.text = '{asked[-1]}' AND v.id IS NOT NULL"
            await eventually(lambda: rows(database, verdict), PATIENCE)
            return rows(database, verdict)

        before = await ask()
        assert "0001" not in str(before)
        printed = await run("scripts.cycle", "--config", config, "run", "--snapshot", snapshot, "--data", more, "--preset", "smoke", "--max-steps", "10")
        turn = json.loads(printed.splitlines()[-1])
        assert (turn["version"], turn["trial"]["items"]) == (1, 100)
        if turn["decision"] != "promoted":  # ten steps are no match for the shipped adapter, and the turn says so
            await run("scripts.cycle", "--config", config, "promote", "1", "--force")
        async with asyncio.timeout(PATIENCE):
            while "0001" not in str(await ask()):
                pass
        assert "serves 0001" in await run("scripts.cycle", "--config", config, "status")
        await run("scripts.cycle", "--config", config, "rollback")
        async with asyncio.timeout(PATIENCE):
            while "0001" in str(await ask()):
                pass
    judged = rows(database, f"SELECT q.text, count(v.id) FROM {JUDGED} WHERE q.chat_id = '{GROUP}' GROUP BY q.id ORDER BY q.asked_at")
    assert [(text, 1) for text in asked] == judged  # none lost by the change, none judged twice


async def eventually_printed(log: Path, pattern: str) -> str:
    """The first match in what a command printed."""
    await eventually(lambda: re.search(pattern, end_of(log)), PATIENCE)
    return re.findall(pattern, end_of(log))[0]  # type: ignore[no-any-return]
