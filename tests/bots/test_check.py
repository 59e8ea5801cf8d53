"""``--check``: what the periodic jobs would use, or miss; and what a bot says that was started without it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bots.checks import check
from bots.commandline import check_spine
from bots.live import live
from core.config import load_config
from tests.bots.live_bot import rule_models


async def checked(folder: Path, capsys: pytest.CaptureFixture[str], **relabel: object) -> tuple[bool, list[str]]:
    path = folder / "config.ini"
    lines = "".join(f"{key} = {value}\n" for key, value in relabel.items())
    path.write_text(f"[gate]\nbackend = none\n[storage]\nurl = sqlite:///{folder}/d.db\n[relabel]\n{lines}", encoding="utf-8")
    fine = await check_spine(load_config(path, {}))
    return fine, [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]


async def test_a_gate_that_is_to_judge_again_is_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine, failures = await checked(tmp_path, capsys, enabled="yes", backend="llama_cpp", model=f"{tmp_path}/none.gguf")
    assert not fine
    assert len(failures) == 1
    assert "[relabel] model" in failures[0]


async def test_retraining_that_cannot_run_is_told_before_its_first_night(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft", reason="the extra train is not installed: that is what the command would say")
    fine, failures = await checked(tmp_path, capsys, cycle_cron="0 4 * * 0", registry=tmp_path / "models")
    assert not fine
    assert len(failures) == 1
    assert "[gate] backend" in failures[0]


async def test_what_is_switched_off_is_not_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await checked(tmp_path, capsys, model=f"{tmp_path}/none.gguf") == (True, [])


@pytest.mark.parametrize(("section", "missing"), [("", "[answer] base_url"), ("[answer]\nbase_url = http://127.0.0.1:8000/v1\n", "[answer] model")])
async def test_answers_that_nobody_gives_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str, missing: str) -> None:
    path = tmp_path / "config.ini"
    path.write_text(f"{section}[bot]\nreply = answer\n[gate]\nbackend = none\n[storage]\nurl = sqlite:///{tmp_path}/d.db\n", encoding="utf-8")
    assert await check(load_config(path, {}), []) == 2
    (failure,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert missing in failure


@pytest.mark.parametrize(("base_url", "told"), [("", 1), ("http://127.0.0.1:8000/v1", 0)])
async def test_a_bot_that_is_to_answer_and_cannot_says_so_at_its_start(tmp_path: Path, base_url: str, told: int) -> None:
    answer = {"base_url": base_url, "model": "qwen"}
    config = load_config(
        None, {}, bot={"reply": "answer"}, storage={"url": f"sqlite:///{tmp_path}/d.db"}, wechat={"provider": "android", "listen": "127.0.0.1:0", "secret": "s" * 24}, answer=answer
    )
    stop = asyncio.Event()
    stop.set()
    with capture_logs() as logs:
        assert await live(config, ["wechat"], stop, models=rule_models()) == 0
    remedies = [entry["remedy"] for entry in logs if entry["event"] == "no_answers" and entry["log_level"] == "warning"]
    assert len(remedies) == told
    assert all("[answer] base_url" in remedy for remedy in remedies)
