"""A running wechaty adapter with its service and its clock."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adapters.wechat.puppet import Deadlines
from adapters.wechat.wechaty_adapter import WechatyAdapter
from core.config import WechatSection
from core.messages import ConversationKey
from core.ports import OutgoingReply
from tests.adapters.manual_clock import ManualClock, eventually
from tests.adapters.recording_sink import RecordingSink
from tests.adapters.wechat.loopback_puppet import LoopbackPuppet

ROOM = ConversationKey("wechat", "chat-1")


class Bench:
    """A running adapter, its service and its clock."""

    def __init__(self, server: LoopbackPuppet, *, call_deadline: float = 10.0, **options: object) -> None:
        self.server, self.clock, self.sink, self.terminal = server, ManualClock(), RecordingSink(), io.StringIO()
        self.adapter = WechatyAdapter(
            WechatSection(endpoint=server.endpoint, token="token"),
            self.clock,
            deadlines=Deadlines(connect=5.0, call=call_deadline),
            terminal=self.terminal,
            **options,  # type: ignore[arg-type]
        )

    async def until(self, condition: object, step: float = 0.5) -> None:
        await eventually(condition, 30.0, tick=lambda: self.clock.advance(step))  # type: ignore[arg-type]

    async def start(self) -> None:
        await self.adapter.start(self.sink)

    async def stop(self) -> None:
        stopping = asyncio.create_task(self.adapter.stop())
        await eventually(stopping.done, 30.0, tick=lambda: self.clock.advance(1.0))
        await stopping

    async def text_of(self, message_id: str) -> str:
        await self.until(lambda: message_id in self.sink.ids())
        return next(message.text for message in self.sink.messages if message.message_id == message_id)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    await bench.start()
    await bench.until(lambda: bench.server.connected and bench.adapter.health().last_event_age is not None)
    yield bench
    await bench.stop()


def reply(text: str = "收到", **fields: str) -> OutgoingReply:
    return OutgoingReply(ROOM, text, "key", **fields)
