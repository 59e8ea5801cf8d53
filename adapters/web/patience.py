"""How long a page waits for a write before it says that the database is busy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from core.errors import StorageError

Result = TypeVar("Result")
LOCKED = "locked by another process"
PATIENCE_SECONDS = 3.0


async def within_patience(write: Awaitable[Result], seconds: float) -> Result:
    """The result of ``write``, or StorageError when it takes longer. The write goes on by itself then: whoever asks for it again must be prepared that it was done."""
    task = asyncio.ensure_future(write)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(_look_at_failure)
        raise StorageError("", LOCKED, "It is tried again by itself")
    return task.result()


def _look_at_failure(task: asyncio.Future[Result]) -> None:
    """Its caller has gone; asyncio would complain of an error that nobody looked at."""
    if not task.cancelled():
        task.exception()
