"""Readable tables of what the bot made of a chat."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.messages import RefusalReason
from storage.questions import LoggedQuestion

REASONS = {
    RefusalReason.NO_CONTEXT: "nothing was said before it, or what it quotes is not known",
    RefusalReason.NO_CANDIDATE: "no earlier message names what is meant",
    RefusalReason.UNCHANGED: "the rewrite changed nothing",
    RefusalReason.INVENTED: "the rewrite invented words",
    RefusalReason.LOST_WORDS: "the rewrite lost words",
    RefusalReason.UNSURE: "not sure enough",
    RefusalReason.BACKEND_FAILED: "the model failed",
    RefusalReason.SWITCHED_OFF: "rewriting is off",
}


def outcome(row: LoggedQuestion) -> Text:
    """The rewrite, or in a few words why there is none."""
    if row.verdict is None:
        return Text("not judged", style="dim")
    if not row.verdict.needs_resolution:
        return Text("stands alone", style="dim")
    if row.resolution is None:
        return Text("not resolved", style="yellow")
    if row.resolution.rewrite is not None:
        return Text(f"{row.resolution.rewrite}  ({row.resolution.confidence:.2f})", style="green")
    reason = REASONS[row.resolution.reason] if row.resolution.reason else "refused"
    shown = Text(f"left as it is: {reason}", style="yellow")
    if row.resolution.reason is RefusalReason.UNSURE and row.resolution.candidate:
        shown.append(f" (guess, {row.resolution.confidence:.2f}: {row.resolution.candidate})", style="dim")
    return shown


def print_resolved(rows: Sequence[LoggedQuestion], summary: Mapping[str, Any], database: str, timezone: tzinfo) -> None:
    """Who asked what, whether it needs resolution and with which probability, and what became of it; then where the database lies and what to do next."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title="豆解: questions of the chat", expand=True, row_styles=("", "on grey7"))
    table.add_column("time", no_wrap=True)
    table.add_column("who", no_wrap=True, max_width=12)
    table.add_column("question", ratio=5, overflow="fold")
    table.add_column("needs", justify="right", no_wrap=True)
    table.add_column("resolved question, or why there is none", ratio=6, overflow="fold")
    for row in rows:
        probability = "-" if row.verdict is None else f"{'yes' if row.verdict.needs_resolution else 'no'} {row.verdict.probability:.2f}"
        table.add_row(row.question.asked_at.astimezone(timezone).strftime("%H:%M"), Text(row.question.sender), Text(row.question.text), probability, outcome(row))
    console.print(table)
    console.print(
        f"{summary['messages_in']} messages ({summary['stored']} new), {summary['utterances']} utterances, {summary['questions']} questions, "
        f"{summary['needs_resolution']} need resolution, {summary['resolved']} resolved, in {summary['seconds']:.1f} s"
    )
    console.print(f"The database lies at {database.removeprefix('sqlite:///')}", highlight=False)
    console.print("Next: python -m bots.console to talk to it; cp config.example.ini config.ini for your own group; python -m scripts.export to see the data.", highlight=False)
