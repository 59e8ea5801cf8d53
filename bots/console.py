"""A group in the terminal: python -m bots.console, then type lines such as ``alice> mmpose 支持移动端部署么？``.

What the bot makes of each question is shown as it happens. An empty line closes what is still open, as if a minute had passed; end of input (Ctrl-D) ends it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from adapters.console import ConsoleReader
from bots import commandline
from bots.commandline import CheckOption, ConfigOption, check_spine, read_config
from bots.tables import outcome
from bots.wiring import Spine, open_spine
from core.clock import SystemClock
from core.config import Config
from core.errors import InputError
from core.events import HandlerFailed, QuestionAsked, QuestionResolved, UtteranceClosed
from storage.questions import LoggedQuestion

HELP = "Type as several members: alice> text. An empty line: nobody adds anything, judge now. Ctrl-D ends."


def show_events(spine: Spine, console: Console) -> None:
    """Print what happens to each utterance."""

    async def closed(event: UtteranceClosed) -> None:
        if len(event.utterance.messages) > 1:
            console.print(f"  merged {len(event.utterance.messages)} messages of {event.utterance.sender_name}", style="dim", markup=False)

    async def asked(event: QuestionAsked) -> None:
        console.print(f"  question of {event.question.sender} (rule {event.question.rule}): {event.question.text}", style="cyan", markup=False)
        if spine.models.gate is None:
            console.print("    stored unjudged: [gate] backend = none", style="dim", markup=False)

    async def resolved(event: QuestionResolved) -> None:
        verdict = event.verdict
        console.print(f"    needs resolution: {verdict.probability:.2f} (threshold {verdict.threshold:.2f}, {verdict.stage}, {verdict.latency_ms:.0f} ms) ->", end=" ")
        console.print(outcome(LoggedQuestion(event.question, event.verdict, event.resolution)))

    async def failed(event: HandlerFailed) -> None:
        console.print(f"    failed: {event.handler}: {event.error}", style="red", markup=False)

    spine.bus.subscribe(UtteranceClosed, closed)
    spine.bus.subscribe(QuestionAsked, asked)
    spine.bus.subscribe(QuestionResolved, resolved)
    spine.bus.subscribe(HandlerFailed, failed)


async def converse(config: Config) -> int:
    """Read lines until the input ends. Raises InputError where it is no text."""
    console, reader, clock = Console(highlight=False), ConsoleReader(), SystemClock()
    lines = _lines(asyncio.get_running_loop())
    async with open_spine(config, live=True, collect_all=True, clock=clock, on_step=lambda step: console.print(f"loading {step} ...", style="dim")) as spine:
        show_events(spine, console)
        console.print(HELP, style="bold")
        while isinstance(line := await lines.get(), str):
            message = reader.message(line, clock.now())
            if message is None:
                await spine.pipeline.flush()
            else:
                await spine.ingest.message(message)
        await spine.pipeline.flush()
    if line is not None:
        raise line
    return commandline.OK


def _lines(loop: asyncio.AbstractEventLoop) -> asyncio.Queue[str | InputError | None]:
    """Lines of standard input, then None, or why it cannot be read. A thread reads them, for reading blocks."""
    queue: asyncio.Queue[str | InputError | None] = asyncio.Queue()

    def read() -> None:
        end: InputError | None = None
        try:
            for line in sys.stdin:
                loop.call_soon_threadsafe(queue.put_nowait, line)
        except UnicodeDecodeError:
            end = InputError("standard input", f"is not {sys.stdin.encoding} text", "Convert it, for example: iconv -f GB18030 -t UTF-8 FILE.")
        loop.call_soon_threadsafe(queue.put_nowait, end)

    threading.Thread(target=read, name="console input", daemon=True).start()
    return queue


def main(config: ConfigOption = None, check: CheckOption = False) -> None:
    """Talk to the bot as several members of a group. Without --config nothing is kept: the database is a temporary file."""

    async def work() -> int:
        with tempfile.TemporaryDirectory(prefix="doujie-console-") as folder:
            overrides: dict[str, dict[str, Any]] = {} if config else {"storage": {"url": f"sqlite+aiosqlite:///{Path(folder) / 'console.db'}"}}
            settings = read_config(config, **overrides)
            if check:
                return commandline.OK if await check_spine(settings) else commandline.BAD_INPUT
            return await converse(settings)

    commandline.run(work())


if __name__ == "__main__":
    typer.run(main)
