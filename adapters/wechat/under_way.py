"""Calls whose end a closing waits for: a reply that is cut off is said again although the group saw it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class UnderWay:
    """Sends that have begun. Each needs a deadline of its own."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of ``call``, which ends with whoever waits for it."""
        task = asyncio.create_task(call, name="send")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await task

    async def wait(self) -> None:
        """Until none is left of those that have begun."""
        if self._tasks:
            await asyncio.wait(self._tasks)
