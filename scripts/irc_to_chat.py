"""``python -m scripts.irc_to_chat CHANNELS.jsonl --out FOLDER``: files of channels as chat lines for ``bots.replay``.

One channel a line, with ``messages: [[time, sender or null, text], ...]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from core.errors import DoujieError, InputError
from scripts.evaluation.context import channel_messages
from scripts.evaluation.forms import Channel, Form, read_file

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    files: Annotated[list[Path], typer.Argument(metavar="CHANNELS.jsonl...", help="Files of channels.")],
    out: Annotated[Path, typer.Option(help="Folder for one chat file a channel, or a file ending in .jsonl for all channels together.")],
    system_lines: Annotated[bool, typer.Option("--system-lines", help="Also joins, parts and other lines that nobody said.")] = False,
) -> None:
    """Convert IRC channels to chat lines."""
    try:
        for path, count in convert(files, out, system_lines):
            typer.echo(f"{path}: {count} messages")
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None


def convert(files: list[Path], out: Path, system_lines: bool) -> list[tuple[Path, int]]:
    """Write the chat files; return each with its number of messages. Raises InputError."""
    channels: list[Channel] = []
    for path in files:
        data = read_file(path)
        if data.form is not Form.CONTEXT:
            raise InputError(str(path), f"is a {data.form} file", "Give a file of channels, with messages and links.")
        channels += data.records
    together = out.suffix == ".jsonl"
    written: dict[Path, int] = {}
    try:
        (out.parent if together else out).mkdir(parents=True, exist_ok=True)
        for channel in channels:
            target = out if together else out / f"{_file_name(channel.file or channel.channel)}.jsonl"
            lines = [json.dumps(line, ensure_ascii=False) for line in chat_lines(channel, system_lines)]
            with target.open("a" if target in written else "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
            written[target] = written.get(target, 0) + len(lines)
    except OSError as error:
        raise InputError(str(out), f"cannot be written: {error.strerror}", "Check the folder and its permissions.") from None
    return list(written.items())


def chat_lines(channel: Channel, system_lines: bool) -> Iterator[dict[str, Any]]:
    """The lines of one channel, with the number in the channel as message id. Empty ones are left out."""
    for message, (_, sender, text) in zip(channel_messages(channel), channel.messages, strict=True):
        if not text.strip() or (sender is None and not system_lines):
            continue
        yield {
            "platform": "irc",
            "chat_id": message.chat_id,
            "chat_name": message.chat_name,
            "message_id": message.message_id,
            "sender_id": message.sender_id,
            "sender_name": message.sender_name,
            "text": text,
            "sent_at": message.sent_at.isoformat(),
            "kind": message.kind.value,
        }


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.\-]+", "_", name).strip("_.") or "channel"


if __name__ == "__main__":
    app()
