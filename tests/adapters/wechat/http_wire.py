"""The gateway's end of a call-back adapter: real HTTP requests, pipelined on one connection so that their order on the wire is the order of the calls."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.adapters.conformance import SendFailure, Sent
from tests.adapters.manual_clock import ManualClock

SECRET = "s3cret-path"


class HttpWire:
    """Base of the two gateways: :meth:`body` makes a platform's JSON of a message."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.adapter: Any = None
        self._acknowledged: list[str] = []
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: list[str] = []
        self._opening = asyncio.Lock()

    async def post(self, value: object, label: str) -> None:
        """Write one request; its answer counts as an acknowledgement of ``label`` when it is 200."""
        async with self._opening:
            if self._writer is None:
                reader, self._writer = await asyncio.open_connection(*self.adapter.address)
                self._reader = asyncio.create_task(self._read(reader))
        payload = json.dumps(value).encode()
        self._waiting.append(label)
        self._writer.write(f"POST /{SECRET} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n".encode() + payload)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length"))
            answer = json.loads(await reader.readexactly(length))
            label = self._waiting.pop(0)
            if head.split(" ")[1] == "200":
                self.answered(label, answer)

    def answered(self, label: str, answer: Any) -> None:
        self._acknowledged.append(label)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def acknowledged(self) -> list[str]:
        return list(self._acknowledged)

    async def drop_connection(self) -> None:
        return None

    def connected(self) -> bool:
        return True

    def fail_next_send(self, failure: SendFailure, times: int = 1) -> None:
        raise NotImplementedError

    def sent(self) -> list[Sent]:
        raise NotImplementedError

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)
