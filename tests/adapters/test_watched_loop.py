"""The watchdog sees what it is there for."""

from __future__ import annotations

import asyncio
import socket
import time

from tests.adapters.watched_loop import watched_loop


async def test_a_callback_that_computes_for_long_is_named() -> None:
    def compute() -> None:
        started = time.thread_time()
        while time.thread_time() - started < 0.06:
            pass

    with watched_loop() as watch:
        asyncio.get_running_loop().call_soon(compute)
        await asyncio.sleep(0.01)
    assert watch.longest >= 0.06
    assert "compute" in watch.culprit


async def test_calls_that_block_are_told_and_those_of_other_threads_are_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, watched_loop() as watch:
        address = server.getsockname()
        await asyncio.to_thread(lambda: socket.create_connection(address).close())
        _, writer = await asyncio.open_connection(*address)
        writer.close()
        assert watch.blocking == []
        time.sleep(0)  # noqa: ASYNC251 - that is what the watchdog is to see
        socket.create_connection(address).close()
    assert {what.split()[0] for what in watch.blocking} >= {"time.sleep", "socket.connect"}
