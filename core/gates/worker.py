"""The one thread in which local models work, so that the event loop never waits for one and no two calls meet in one context."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ModelWorker:
    """Runs blocking model calls one after another in a thread of its own. Share one between all local models of a process."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="doujie-model")

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await ``call(*args, **kwargs)`` in the worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Finish the running call, drop the waiting ones and end the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)
