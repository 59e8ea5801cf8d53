"""A watchdog for the event loop: what computed for long on it, and what could have blocked it."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NOT_OURS = ("RequestHandler", "grpclib/server", "coro=<test_")
"""The platforms' side and the test's own callbacks, which share our process in tests."""


class Watch:
    """``longest``: CPU seconds of the longest callback (not wall time: other processes may hold the machine). ``culprit``: what it was; ``blocking``: what could have blocked."""

    longest = 0.0
    culprit = ""

    def __init__(self) -> None:
        self.blocking: list[str] = []
        self.active = True


@contextmanager
def watched_loop() -> Iterator[Watch]:
    watch, thread = Watch(), threading.get_ident()
    run, sleep = asyncio.events.Handle._run, time.sleep

    def timed(handle: asyncio.events.Handle) -> None:
        started = time.thread_time()
        run(handle)
        if (took := time.thread_time() - started) > watch.longest:
            culprit = repr(getattr(handle._callback, "__self__", handle))  # type: ignore[attr-defined]
            if not any(name in culprit for name in NOT_OURS):
                watch.longest, watch.culprit = took, culprit

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if not watch.active or threading.get_ident() != thread:
            return
        if event == "socket.connect" and isinstance(arguments[0], socket.socket) and arguments[0].gettimeout() != 0.0:
            watch.blocking.append(f"{event} {arguments[1]}")
        elif event in ("socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen"):
            watch.blocking.append(event)

    def told_sleep(seconds: float) -> None:  # an audited event only from Python 3.13 on
        if threading.get_ident() == thread:
            watch.blocking.append("time.sleep")
        sleep(seconds)

    # The heap of a whole test run is no bot's heap: its full collections alone take 100 ms. A bot freezes what it loaded at its start; what it makes later is collected here too.
    gc.collect()
    gc.freeze()
    sys.addaudithook(audit)  # cannot be removed; idle once the watch is over
    asyncio.events.Handle._run = timed  # type: ignore[method-assign,assignment]
    time.sleep = told_sleep
    try:
        yield watch
    finally:
        asyncio.events.Handle._run, time.sleep = run, sleep  # type: ignore[method-assign]
        watch.active = False
        gc.unfreeze()
