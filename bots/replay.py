"""Replay of logged chats: python -m bots.replay CHAT.jsonl ...

Reads chat lines (JSONL, IRC logs, raw WeChat call-back logs) and carries them through merging, filtering, judging and rewriting into the database.
A run that was killed continues where it stopped.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from adapters.replay import BadLine, read_chat
from bots import commandline
from bots.commandline import CheckOption, ConfigOption, check_spine, read_config
from bots.tables import print_resolved
from bots.wiring import Spine, open_spine
from core.clock import Clock, SystemClock
from core.config import Config
from core.errors import InputError
from core.messages import ConversationKey, Message, Recall
from core.records import json_line, question_record

CHUNK = 500
SHOWN_BAD_LINES = 5


class ScaledClock:
    """Event time that runs ``speed`` times as fast as the machine's clock, from ``start`` on."""

    def __init__(self, start: datetime, speed: float) -> None:
        self._start, self._speed, self._began = start, speed, time.monotonic()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return (time.monotonic() - self._began) * self._speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds / self._speed))


@dataclass(slots=True)
class Intake:
    """What a replay read. ``bad`` lines were skipped."""

    messages_in: int = 0
    stored: int = 0
    bad: int = 0


class Replayer:
    """Feeds files into a spine. ``clock`` given: each message waits for its time; else as fast as it can."""

    def __init__(self, spine: Spine, clock: Clock | None, progress: Progress) -> None:
        self._spine, self._clock, self._progress = spine, clock, progress
        self.intake = Intake()
        self.conversations: set[ConversationKey] = set()

    async def feed(self, path: Path) -> None:
        """Read one file to its end. Raises InputError when it cannot be read."""
        lines = _count_lines(path)
        task = self._progress.add_task(path.name, total=lines, shown="")
        chunk: list[Message] = []
        for item in read_chat(path):
            self._progress.advance(task)
            if isinstance(item, BadLine):
                self._bad(path, item)
            elif isinstance(item, Recall):
                await self._store(chunk)
                await self._spine.ingest.recall(item)
            else:
                if self._clock is not None:
                    await self._clock.sleep((item.sent_at - self._clock.now()).total_seconds())
                chunk.append(item)
                if self._clock is not None or len(chunk) >= CHUNK:
                    await self._store(chunk)
        await self._store(chunk)
        self._progress.update(task, completed=lines)

    async def _store(self, chunk: list[Message]) -> None:
        self.intake.messages_in += len(chunk)
        self.intake.stored += await self._spine.ingest.messages(chunk)
        self.conversations.update(message.conversation for message in chunk)
        chunk.clear()

    def _bad(self, path: Path, line: BadLine) -> None:
        self.intake.bad += 1
        if self.intake.bad <= SHOWN_BAD_LINES:
            remedy = "Mend it and replay the file again: what is stored is not stored twice."
            commandline.errors.print(f"{path}:{line.number}: skipped: {line.reason}. {remedy}", style="yellow", markup=False, soft_wrap=True)
        elif self.intake.bad == SHOWN_BAD_LINES + 1:
            commandline.errors.print("further bad lines are only counted", style="yellow")


def first_time(paths: list[Path]) -> datetime:
    """Time of the first message of all files. Raises InputError when there is none."""
    for path in paths:
        for item in read_chat(path):
            if isinstance(item, Message):
                return item.sent_at
    raise InputError(", ".join(map(str, paths)), "no message in it", "Give chat lines as README.md shows them.")


async def replay(config: Config, paths: list[Path], out: Path | None, summary_file: Path | None, speed: float, table: bool) -> dict[str, Any]:
    """Replay ``paths``, write what was asked for, and return the summary."""
    started = time.perf_counter()
    for path in paths:
        if not path.is_file():
            raise InputError(str(path), "no such file", "Give the path of a chat log.")
    clock: Clock | None = ScaledClock(first_time(paths), speed) if speed else None
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[shown]}"), TimeElapsedColumn())
    with Progress(*columns, console=commandline.errors, transient=True) as progress:
        loading = progress.add_task("loading models", total=None, shown="")
        async with open_spine(config, live=clock is not None, collect_all=True, clock=clock or SystemClock(), on_step=lambda step: progress.update(loading, shown=step)) as spine:
            progress.update(loading, total=1, completed=1, shown="done")
            replayer = Replayer(spine, clock, progress)
            for path in paths:
                await replayer.feed(path)
            watcher = asyncio.create_task(_watch(spine, progress))
            await spine.pipeline.flush()
            watcher.cancel()
            counts = spine.pipeline.counts
            intake = replayer.intake
            summary = {
                "messages_in": intake.messages_in,
                "stored": intake.stored,
                "duplicates": intake.messages_in - intake.stored,
                "bad": intake.bad,
                "utterances": counts.utterances,
                "questions": counts.questions,
                "judged": counts.judged,
                "needs_resolution": counts.needs_resolution,
                "resolved": counts.resolved,
                "seconds": round(time.perf_counter() - started, 3),
            }
            rows = [row async for row in spine.questions.export_rows() if row.question.conversation in replayer.conversations] if out or table else []
    if out is not None:
        _write(out, (json_line(question_record(row)) for row in rows))
    if summary_file is not None:
        _write(summary_file, [json.dumps(summary, indent=1) + "\n"])
    if table:
        print_resolved(rows, summary, spine.database.url, ZoneInfo(config.bot.timezone))
    return summary


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b"")) + 1
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}", "Check the path and its permissions.") from None


async def _watch(spine: Spine, progress: Progress) -> None:
    """Show how far judging and rewriting are behind reading."""
    task = progress.add_task("judging and rewriting", total=None, shown="")
    while True:
        counts, waiting = spine.pipeline.counts, spine.pipeline.waiting
        left = waiting["gate"] + waiting["resolver"] + waiting["storage"]
        progress.update(task, completed=counts.judged, total=counts.judged + left, shown=f"{counts.judged} judged, {counts.resolved} resolved, {left} waiting")
        await asyncio.sleep(0.2)


def _write(path: Path, lines: Iterator[str] | list[str]) -> None:
    try:
        with path.open("w", encoding="utf-8", errors="replace") as file:
            file.writelines(lines)
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}", "Choose another path.") from None


def main(
    chats: Annotated[list[Path] | None, typer.Argument(help="Chat logs: JSONL chat lines, IRC logs, or raw WeChat call-back logs.")] = None,
    config: ConfigOption = None,
    out: Annotated[Path | None, typer.Option(help="Write the questions with verdict and rewrite here, one JSON object a line.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the summary here as JSON.")] = None,
    speed: Annotated[float, typer.Option(min=0.0, help="1: real time, 60: a minute a second, 0: as fast as it can.")] = 0.0,
    table: Annotated[bool, typer.Option("--table", help="Print a readable table of all questions.")] = False,
    check: CheckOption = False,
) -> None:
    """Replay logged chats through the whole pipeline into the database."""

    async def work() -> int:
        settings = read_config(config)
        if check:
            return commandline.OK if await check_spine(settings) else commandline.BAD_INPUT
        if not chats:
            raise InputError("CHAT", "no chat log given", "python -m bots.replay CHAT.jsonl, or --help.")
        summary = await replay(settings, chats, out, json_file, speed, table)
        if not table:
            print(json.dumps(summary))
        return commandline.OK

    commandline.run(work())


if __name__ == "__main__":
    typer.run(main)
