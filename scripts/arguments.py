"""Values that several commands take at the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import typer

from core.errors import DoujieError, InputError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user caused is one line and the error's exit code, no traceback."""
    try:
        yield
    except DoujieError as error:
        typer.echo(str(error), err=True)
        raise SystemExit(error.exit_code) from None


def need(*modules: str) -> None:
    """Raise InputError when a library of the extra ``train`` is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise InputError("training", f"not installed: {', '.join(missing)}", 'pip install "doujie[train]"')


def make_folder(path: Path) -> None:
    """Make a folder for what a command writes, before it computes for hours. Raises InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(path), f"cannot be written: {error.strerror}", "Give a folder that this user may write to.") from None


def parse_time(text: str, option: str) -> datetime:
    """ISO-8601, without a zone UTC. Raises InputError that names ``option``."""
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"{option} {text}", "is no time", "Give ISO-8601, for example 2026-03-01 or 2026-03-01T09:00:00+08:00.") from None
