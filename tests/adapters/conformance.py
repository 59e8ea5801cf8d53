"""What every adapter keeps, whatever its platform: inherit :class:`AdapterConformance` and give the fixtures ``wire`` and ``adapter``.

A subclass runs the adapter against its platform's loopback server; nothing inside the process is mocked::

    class TestFeishuAdapter(AdapterConformance):
        platform = "feishu"

        @pytest.fixture
        async def wire(self) -> AsyncIterator[Wire]:
            async with LoopbackFeishu() as server:
                yield FeishuWire(server, ManualClock())

        @pytest.fixture
        def adapter(self, wire: Wire) -> Adapter:
            return FeishuAdapter(wire.config, wire.clock)   # not started: the suite starts and stops it

The class attributes tell what the platform can do: ``platform`` (its name in messages), ``acknowledges`` (it waits for an acknowledgement of each message),
``connects`` (there is a connection that can drop).
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import ClassVar, Protocol

import pytest

from core.errors import SendError
from core.messages import ConversationKey
from core.ports import Adapter, OutgoingReply
from tests.adapters.manual_clock import eventually
from tests.adapters.recording_sink import RecordingSink

FIRST_SENT_AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class SendFailure(Enum):
    """How the platform refuses the next call that sends."""

    UNAVAILABLE = "unavailable"  # a server error: trying again may help
    RATE_LIMITED = "rate_limited"  # too many calls: trying again later helps
    REFUSED = "refused"  # the bot may not speak there: trying again is useless


@dataclass(frozen=True, slots=True)
class WireMessage:
    """A text message on the platform's side, in a group where the bot is. ``own``: the bot itself sent it and the platform echoes it."""

    message_id: str
    text: str = "你好"
    chat_id: str = "chat-1"
    sender_id: str = "alice"
    own: bool = False
    sent_at: datetime = FIRST_SENT_AT


@dataclass(frozen=True, slots=True)
class Sent:
    """A reply as the group sees it."""

    chat_id: str
    text: str


class Wire(Protocol):
    """The platform's end of the line, played by a loopback server."""

    async def deliver(self, message: WireMessage) -> None:
        """Push one message to the adapter. Returns when it is on its way, NOT when it is acknowledged; the order of calls is the order on the wire."""

    def acknowledged(self) -> list[str]:
        """Ids of the messages the adapter has acknowledged as taken, in order. Refusals ("push it again") do not count. Empty when the platform knows no acknowledgement."""

    async def drop_connection(self) -> None:
        """Cut the connection as a network does; the platform takes a new one at once. Nothing to do where ``connects`` is False."""

    def connected(self) -> bool:
        """Whether the adapter is connected, as the platform sees it (always True where ``connects`` is False)."""

    def fail_next_send(self, failure: SendFailure, times: int = 1) -> None:
        """Refuse the next ``times`` calls that send."""

    def sent(self) -> list[Sent]:
        """What the group has seen of the bot, in order; a repeated idempotency key shows once where the platform has such keys."""

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` of the adapter's clock pass (a manual clock: no real waiting)."""


def numbered(count: int, chat_id: str = "chat-1", prefix: str = "m") -> list[WireMessage]:
    return [WireMessage(f"{prefix}{i}", f"第 {i} 句", chat_id, "alice" if i % 2 else "bob", sent_at=FIRST_SENT_AT + timedelta(seconds=i)) for i in range(count)]


class AdapterConformance:
    """The suite. Subclasses give ``wire`` and ``adapter``."""

    platform: ClassVar[str]
    acknowledges: ClassVar[bool] = True
    connects: ClassVar[bool] = True

    @pytest.fixture
    async def wire(self) -> Wire:
        raise NotImplementedError

    @pytest.fixture
    async def adapter(self, wire: Wire) -> Adapter:
        raise NotImplementedError

    @pytest.fixture
    async def sink(self) -> RecordingSink:
        return RecordingSink()

    @pytest.fixture
    async def running(self, adapter: Adapter, wire: Wire, sink: RecordingSink) -> AsyncIterator[Adapter]:
        await adapter.start(sink)
        await self.until(wire, lambda: wire.connected() and adapter.health().connected)
        yield adapter
        sink.release()
        await self.stop(adapter, wire)

    @staticmethod
    async def until(wire: Wire, condition: object, timeout: float = 20.0, step: float = 1.0) -> None:
        """Wait for ``condition()`` while ``step`` seconds of the adapter's clock pass with each look."""
        assert callable(condition)
        await eventually(condition, timeout, tick=lambda: wire.advance(step))

    @staticmethod
    async def stop(adapter: Adapter, wire: Wire) -> None:
        stopping = asyncio.create_task(adapter.stop())
        await eventually(stopping.done, tick=lambda: wire.advance(1.0))
        await stopping

    async def test_messages_of_one_conversation_keep_their_order(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        for pair in zip(numbered(30), numbered(30, "chat-2", "n"), strict=True):
            for message in pair:
                await wire.deliver(message)
        await self.until(wire, lambda: len(sink.messages) == 60)
        assert sink.ids() == [f"m{i}" for i in range(30)]
        assert sink.ids("chat-2") == [f"n{i}" for i in range(30)]

    async def test_a_message_arrives_with_what_the_platform_said(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        await wire.deliver(WireMessage("m1", "怎么把它部署到 TX2？", sender_id="carol", sent_at=FIRST_SENT_AT + timedelta(seconds=7)))
        await self.until(wire, lambda: sink.messages)
        got = sink.messages[0]
        assert (got.platform, got.chat_id, got.message_id, got.sender_id, got.text) == (running.platform, "chat-1", "m1", "carol", "怎么把它部署到 TX2？")
        assert got.sent_at == FIRST_SENT_AT + timedelta(seconds=7)

    async def test_a_duplicate_comes_with_the_same_id(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        for _ in range(2):
            await wire.deliver(WireMessage("m1"))
        await wire.deliver(WireMessage("m2"))
        await self.until(wire, lambda: "m2" in sink.ids())
        assert set(sink.ids()) == {"m1", "m2"}
        if self.acknowledges:
            await self.until(wire, lambda: wire.acknowledged().count("m1") == 2)

    async def test_own_messages_are_not_delivered(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        await wire.deliver(WireMessage("own-1", own=True))
        await wire.deliver(WireMessage("m2"))
        await self.until(wire, lambda: sink.messages)
        assert sink.ids() == ["m2"]
        if self.acknowledges:
            await self.until(wire, lambda: "own-1" in wire.acknowledged())

    async def test_nothing_is_acknowledged_before_it_is_stored(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        if not self.acknowledges:
            pytest.skip("the platform knows no acknowledgement")
        sink.hold()
        await wire.deliver(WireMessage("m1"))
        await self.until(wire, lambda: sink.entered == 1, step=0.0)
        await asyncio.sleep(0.05)
        assert wire.acknowledged() == []
        sink.release()
        await self.until(wire, lambda: wire.acknowledged() == ["m1"])
        assert sink.ids() == ["m1"]

    async def test_a_message_that_could_not_be_stored_is_not_acknowledged(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        sink.errors.append(RuntimeError("disk full"))
        await wire.deliver(WireMessage("m1"))
        await self.until(wire, lambda: sink.entered == 1)
        await wire.deliver(WireMessage("m2"))
        await self.until(wire, lambda: "m2" in sink.ids())
        if self.acknowledges:
            await self.until(wire, lambda: "m2" in wire.acknowledged())
            assert "m1" not in wire.acknowledged()

    async def test_a_slow_consumer_loses_nothing(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        sink.hold()
        delivering = asyncio.gather(*(wire.deliver(message) for message in numbered(300)))
        await self.until(wire, lambda: sink.entered >= 1, step=0.0)
        await asyncio.sleep(0.05)
        assert sink.entered < 300
        sink.release()
        await self.until(wire, lambda: len(set(sink.ids())) == 300, 60.0, step=0.0)
        await delivering
        assert list(dict.fromkeys(sink.ids())) == [f"m{i}" for i in range(300)]

    async def test_a_dropped_connection_comes_back(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        if not self.connects:
            pytest.skip("the platform calls us")
        await wire.deliver(WireMessage("m1"))
        await self.until(wire, lambda: sink.messages)
        for again in ("m2", "m3"):
            await wire.drop_connection()
            await self.until(wire, lambda: wire.connected() and running.health().connected)
            await wire.deliver(WireMessage(again))
            await self.until(wire, lambda again=again: again in sink.ids())
        # A connection that drops before the acknowledgement arrives brings a message again: the inbox knows it by its id.
        assert list(dict.fromkeys(sink.ids())) == ["m1", "m2", "m3"]

    async def test_stop_leaves_no_task_and_no_thread(self, adapter: Adapter, wire: Wire, sink: RecordingSink) -> None:
        tasks, threads = self.tasks(), set(threading.enumerate())
        await adapter.start(sink)
        await self.until(wire, lambda: wire.connected() and adapter.health().connected)
        await wire.deliver(WireMessage("m1"))
        await self.until(wire, lambda: sink.messages)
        await self.hand_over(adapter, sink, self.reply())
        await self.stop(adapter, wire)
        await self.stop(adapter, wire)
        assert not adapter.health().connected
        gc.collect()
        await eventually(lambda: self.adapters_own(self.tasks() - tasks) == set() and set(threading.enumerate()) <= threads)

    async def test_stop_before_start_does_nothing(self, adapter: Adapter, wire: Wire) -> None:
        await self.stop(adapter, wire)
        assert not adapter.health().connected

    async def test_stop_does_not_wait_for_ever_for_a_stuck_consumer(self, adapter: Adapter, wire: Wire, sink: RecordingSink) -> None:
        await adapter.start(sink)
        await self.until(wire, lambda: wire.connected() and adapter.health().connected)
        sink.hold()
        await wire.deliver(WireMessage("m1"))
        await self.until(wire, lambda: sink.entered == 1, step=0.0)
        await self.stop(adapter, wire)
        assert wire.acknowledged() == []

    async def test_a_reply_reaches_the_group(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        await self.hand_over(running, sink, self.reply("已解析：怎么把 mmpose 部署到 TX2？"))
        await self.until(wire, lambda: wire.sent())
        assert [(sent.chat_id, sent.text) for sent in wire.sent()] == [("chat-1", "已解析：怎么把 mmpose 部署到 TX2？")]

    async def test_a_repeated_send_reaches_the_group_once(self, running: Adapter, wire: Wire) -> None:
        if not running.capabilities.idempotent_send:
            pytest.skip("the platform has no idempotency key")
        for _ in range(2):
            await running.send(self.reply())
        assert len(wire.sent()) == 1

    @pytest.mark.parametrize("failure", [SendFailure.UNAVAILABLE, SendFailure.RATE_LIMITED])
    async def test_a_passing_send_failure_is_retried_or_reported(self, running: Adapter, wire: Wire, failure: SendFailure) -> None:
        wire.fail_next_send(failure)
        sending = asyncio.create_task(self.send_or_error(running))
        await eventually(sending.done, tick=lambda: wire.advance(1.0))
        error = await sending
        if error is None:
            await self.until(wire, lambda: len(wire.sent()) == 1)
        else:
            assert not error.permanent
            assert wire.sent() == []

    async def test_a_refused_send_is_reported_as_permanent(self, running: Adapter, wire: Wire) -> None:
        wire.fail_next_send(SendFailure.REFUSED, times=100)
        sending = asyncio.create_task(self.send_or_error(running))
        await eventually(sending.done, tick=lambda: wire.advance(1.0))
        error = await sending
        assert error is not None
        assert error.permanent
        assert error.platform == running.platform
        assert wire.sent() == []

    async def test_sending_and_taking_back_after_stop_are_errors(self, adapter: Adapter, wire: Wire, sink: RecordingSink) -> None:
        await adapter.start(sink)
        await self.stop(adapter, wire)
        assert await self.send_or_error(adapter) is not None
        with pytest.raises(SendError):
            await adapter.recall(self.reply().conversation, "m1")

    async def test_the_bot_takes_its_own_message_back_where_the_platform_lets_it(self, running: Adapter, wire: Wire) -> None:
        conversation = self.reply().conversation
        if running.capabilities.recalls:
            await running.recall(conversation, await running.send(self.reply()))
        else:
            with pytest.raises(SendError) as caught:
                await running.recall(conversation, "m1")
            assert caught.value.permanent

    async def test_health_tells_when_the_platform_was_last_heard(self, running: Adapter, wire: Wire, sink: RecordingSink) -> None:
        await wire.deliver(WireMessage("m1"))
        await self.until(wire, lambda: sink.messages)
        health = running.health()
        assert health.connected
        assert health.last_event_age is not None
        assert 0.0 <= health.last_event_age < 20.0

    @staticmethod
    async def hand_over(adapter: Adapter, sink: RecordingSink, reply: OutgoingReply) -> None:
        """As the outbox does: send, or keep ready for a platform that fetches."""
        if adapter.capabilities.fetches:
            sink.waiting.append(reply)
        else:
            await adapter.send(reply)

    async def send_or_error(self, adapter: Adapter) -> SendError | None:
        try:
            await adapter.send(self.reply())
        except SendError as error:
            return error
        return None

    def reply(self, text: str = "收到", key: str = "key-1") -> OutgoingReply:
        return OutgoingReply(ConversationKey(self.platform, "chat-1"), text, key)

    @staticmethod
    def tasks() -> set[asyncio.Task[object]]:
        return asyncio.all_tasks()

    @staticmethod
    def adapters_own(tasks: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
        """Of the tasks that are left, those of the adapter: the loopback server's handlers may outlive a connection for a moment and can be left out here."""
        return tasks
