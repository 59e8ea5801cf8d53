"""Retraining from a bot: in a process of its own at the lowest priority, which takes neither memory nor time of the bot's. The new adapter comes back by the registry."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from core.config import Config
from core.errors import DoujieError

#: Seconds that the process gets to end itself when the bot stops; what it has trained so far is on disk, and the next run goes on from there.
_GRACE_SECONDS = 10.0
_LONGEST_LINE = 400


def command_of(config: Config) -> list[str]:
    """What is started: the same config, by file and environment."""
    return [*_cycle(config), "run", "--low-priority"]


def check_of(config: Config) -> list[str]:
    """Tells what a turn would need, without one."""
    return [*_cycle(config), "check"]


def _cycle(config: Config) -> list[str]:
    chosen = ["--config", config.source] if Path(config.source).is_file() else []
    return [sys.executable, "-m", "scripts.cycle", *chosen]


async def run(command: Sequence[str]) -> str:
    """Run :func:`command_of` or :func:`check_of`. Returns its outcome in a line. Raises DoujieError when it fails, with the last line that it wrote."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    try:
        output, errors = await process.communicate()
    except BaseException:
        await _end(process)
        raise
    if process.returncode != 0:
        raise DoujieError(f"retraining ended with code {process.returncode}: {_line(errors, last=True) or 'it said nothing'}")
    return _line(output)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask the process to end, then make it."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_GRACE_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _line(output: bytes, *, last: bool = False) -> str:
    """The first or last line that is not empty."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1 if last else 0][:_LONGEST_LINE] if lines else ""
