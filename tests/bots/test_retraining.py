"""Retraining as a process beside the bot: its outcome, its failures, and its end when the bot stops."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from bots.jobs import periodic_jobs
from bots.retraining import command_of, run
from bots.wiring import open_spine
from core.clock import SystemClock
from core.config import load_config
from core.errors import DoujieError
from storage.job_runs import SqlJobRuns
from tests.adapters.manual_clock import eventually
from tests.bots.test_jobs import Later, in_twelve_hours


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def test_the_outcome_is_the_first_line() -> None:
    assert await run(python("print('F1 0.9 against 0.8: version 2 serves from now on.'); print('{}')")) == ("F1 0.9 against 0.8: version 2 serves from now on.")


async def test_a_failure_is_the_last_line_and_its_code() -> None:
    with pytest.raises(DoujieError, match="code 2: test set too small"):
        await run(python("import sys; print('warning', file=sys.stderr); print('test set too small', file=sys.stderr); sys.exit(2)"))


async def test_the_real_command_reads_the_bot_s_config_and_says_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra train is not installed: that is what the command would say")
    path = tmp_path / "config.ini"
    path.write_text(f"[relabel]\nregistry = {tmp_path}/models\n", encoding="utf-8")
    config = load_config(path, {})
    assert str(path) in command_of(config)
    with pytest.raises(DoujieError, match=r"\[relabel\] test_set"):
        await run(command_of(config))
    assert not (tmp_path / "models").exists()


async def test_defaults_are_started_without_a_file() -> None:
    assert "--config" not in command_of(load_config(None, {}))


@pytest.mark.parametrize("stubborn", [False, True])
async def test_it_ends_with_the_bot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool) -> None:
    monkeypatch.setattr("bots.retraining._GRACE_SECONDS", 0.2)
    mark = tmp_path / "pid"
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" if stubborn else ""
    code = f"import os, signal, time, pathlib; {ignore} pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(60)"
    task = asyncio.create_task(run(python(code)))
    await eventually(lambda: mark.exists() and mark.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


async def test_the_bot_s_schedule_starts_it_and_keeps_why_it_failed(tmp_path: Path) -> None:
    path = tmp_path / "config.ini"
    path.write_text(
        f"[gate]\nbackend = none\n[storage]\nurl = sqlite:///{tmp_path}/doujie.db\n[relabel]\ncycle_cron = {in_twelve_hours()}\nregistry = {tmp_path}/models\n", encoding="utf-8"
    )
    config = load_config(path, {})
    for clock in (SystemClock(), Later(days=2)):
        async with open_spine(config, live=False, clock=clock) as spine:
            jobs, runs = periodic_jobs(config, spine, clock), SqlJobRuns(spine.database)
            await jobs.start()
            last = await runs.last("cycle")
            if isinstance(clock, Later):
                async with asyncio.timeout(60):
                    while last is None or not last.outcome:
                        await asyncio.sleep(0.02)
                        last = await runs.last("cycle")
            await jobs.stop()
    assert last is not None
    assert last.outcome.startswith("failed: retraining ended with code 2")
