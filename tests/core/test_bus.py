"""What the rest of the program relies on: order, isolation, back pressure, an orderly end."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from core.bus import EventBus
from core.events import HandlerFailed, MessageStored, UtteranceClosed
from core.messages import Utterance
from tests.core.chat import said


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    bus = EventBus(lane_capacity=4)
    await bus.start()
    yield bus
    await bus.stop(0.01)


def stored(text: str, chat: str = "g1") -> MessageStored:
    return MessageStored(said("a", text, chat=chat))


def closed(text: str, chat: str = "g1") -> UtteranceClosed:
    return UtteranceClosed(Utterance((said("a", text, chat=chat),)))


class Gate:
    """A handler that stands still until it is opened, and keeps what it saw."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.seen: list[str] = []

    async def __call__(self, event: MessageStored) -> None:
        await self.open.wait()
        self.seen.append(event.message.text)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_order_within_each_conversation_with_uneven_handlers(bus: EventBus) -> None:
    seen: dict[str, list[int]] = defaultdict(list)

    async def handler(event: MessageStored) -> None:
        number = int(event.message.text)
        for _ in range(number % 5):
            await asyncio.sleep(0)
        seen[event.message.chat_id].append(number)

    bus.subscribe(MessageStored, handler)
    for number in range(300):
        await bus.publish(stored(str(number), f"g{number % 3}"))
    assert await bus.drain(5)
    assert seen == {f"g{chat}": list(range(chat, 300, 3)) for chat in range(3)}
    assert bus.handled == 300
    assert bus.waiting == 0


async def test_order_holds_when_a_full_lane_empties_while_a_publisher_waits(bus: EventBus) -> None:
    seen: list[str] = []
    first = asyncio.Event()

    async def handler(event: MessageStored) -> None:
        if not seen:
            await first.wait()
        seen.append(event.message.text)

    bus.subscribe(MessageStored, handler)

    async def publish_all() -> None:
        for number in range(50):
            await bus.publish(stored(str(number)))

    publisher = asyncio.create_task(publish_all())
    await settle()
    first.set()
    await asyncio.wait_for(publisher, 5)
    assert await bus.drain(5)
    assert seen == [str(number) for number in range(50)]


async def test_a_slow_conversation_does_not_hold_up_another(bus: EventBus) -> None:
    gate = Gate()

    async def handler(event: MessageStored) -> None:
        if event.message.chat_id == "slow":
            await gate(event)
        else:
            gate.seen.append(event.message.text)

    bus.subscribe(MessageStored, handler)
    await bus.publish(stored("first", "slow"))
    await bus.publish(stored("second", "quick"))
    await settle()
    assert gate.seen == ["second"]
    gate.open.set()
    assert await bus.drain(5)
    assert gate.seen == ["second", "first"]


async def test_handlers_that_never_wait_do_not_starve_other_conversations() -> None:
    bus = EventBus(lane_capacity=1000)
    await bus.start()
    seen: list[str] = []

    async def handler(event: MessageStored) -> None:
        seen.append(event.message.chat_id)

    bus.subscribe(MessageStored, handler)
    for _ in range(500):
        await bus.publish(stored("x", "busy"))
    await bus.publish(stored("x", "other"))
    await bus.drain(5)
    assert seen.index("other") < 500
    assert await bus.stop()


async def test_a_full_lane_holds_its_publisher_and_no_other(bus: EventBus) -> None:
    gate = Gate()
    bus.subscribe(MessageStored, gate)
    await bus.publish(stored("handled"))
    await settle()
    for number in range(4):
        await bus.publish(stored(str(number)))
    held = asyncio.create_task(bus.publish(stored("held")))
    await settle()
    assert not held.done()
    assert bus.waiting == 4
    await asyncio.wait_for(bus.publish(stored("elsewhere", "g2")), 5)
    gate.open.set()
    await asyncio.wait_for(held, 5)
    assert await bus.drain(5)
    assert [text for text in gate.seen if text != "elsewhere"] == ["handled", "0", "1", "2", "3", "held"]


async def test_results_enter_a_full_lane(bus: EventBus) -> None:
    gate = Gate()
    bus.subscribe(MessageStored, gate)
    for number in range(4):
        await bus.publish(stored(str(number)))
    bus.publish_result(stored("result"))
    gate.open.set()
    assert await bus.drain(5)
    assert gate.seen[-1] == "result"


@pytest.mark.parametrize("target", ["g1", "g2"])
async def test_handlers_that_publish_into_full_lanes_do_not_deadlock(bus: EventBus, target: str) -> None:
    heard: list[str] = []

    async def fan_out(event: MessageStored) -> None:
        other = target if event.message.chat_id == "g1" else "g1"
        for number in range(10):
            await bus.publish(closed(f"{event.message.text}.{number}", other))

    async def listen(event: UtteranceClosed) -> None:
        heard.append(event.utterance.text)

    bus.subscribe(MessageStored, fan_out)
    bus.subscribe(UtteranceClosed, listen)
    for name in ("a", "b", "c"):
        await asyncio.wait_for(bus.publish(stored(name, "g1")), 5)
        await asyncio.wait_for(bus.publish(stored(name.upper(), "g2")), 5)
    assert await bus.drain(5)
    for name in "abcABC":
        assert [text for text in heard if text[0] == name] == [f"{name}.{number}" for number in range(10)]


async def test_a_failing_handler_is_visible_and_harms_nobody(bus: EventBus) -> None:
    seen: list[str] = []
    failures: list[HandlerFailed] = []

    async def broken(event: MessageStored) -> None:
        if event.message.text == "私密":
            raise ValueError("text: 私密")

    async def healthy(event: MessageStored) -> None:
        seen.append(event.message.text)

    async def listen(event: HandlerFailed) -> None:
        failures.append(event)

    bus.subscribe(MessageStored, broken)
    bus.subscribe(MessageStored, healthy)
    bus.subscribe(HandlerFailed, listen)
    with capture_logs() as logs:
        await bus.publish(stored("私密"))
        await bus.publish(stored("next"))
        assert await bus.drain(5)
    assert seen == ["私密", "next"]
    assert bus.failures == 1
    assert [(type(f.error), f.handler.split(".")[-1], str(f.conversation)) for f in failures] == [(ValueError, "broken", "console:g1")]
    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert (entry["event"], entry["event_type"], entry["error"]) == ("handler_failed", "MessageStored", "ValueError")
    assert all("私密" not in str(entry) for entry in logs if entry["log_level"] != "debug")


async def test_a_failing_failure_handler_does_not_go_round_in_circles(bus: EventBus) -> None:
    async def broken(event: object) -> None:
        raise RuntimeError

    bus.subscribe(MessageStored, broken)
    bus.subscribe(HandlerFailed, broken)
    with capture_logs():
        await bus.publish(stored("x"))
        assert await bus.drain(5)
    assert bus.failures == 2


async def test_something_cancelled_inside_a_handler_does_not_end_the_lane(bus: EventBus) -> None:
    seen: list[str] = []

    async def handler(event: MessageStored) -> None:
        if event.message.text == "cancelled":
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        seen.append(event.message.text)

    bus.subscribe(MessageStored, handler)
    with capture_logs():
        await bus.publish(stored("cancelled"))
        await bus.publish(stored("next"))
        assert await bus.drain(5)
    assert (seen, bus.failures) == (["next"], 1)


async def test_drain_waits_for_what_handlers_publish(bus: EventBus) -> None:
    heard: list[str] = []

    async def relay(event: MessageStored) -> None:
        await asyncio.sleep(0)
        await bus.publish(closed(event.message.text, "g9"))

    async def listen(event: UtteranceClosed) -> None:
        await asyncio.sleep(0)
        heard.append(event.utterance.text)

    bus.subscribe(MessageStored, relay)
    bus.subscribe(UtteranceClosed, listen)
    idle = [bus.idle]
    await bus.publish(stored("x"))
    idle.append(bus.idle)
    assert await bus.drain(5)
    idle.append(bus.idle)
    assert idle == [True, False, True]
    assert heard == ["x"]


async def test_drain_tells_that_it_ran_out_of_time(bus: EventBus) -> None:
    bus.subscribe(MessageStored, Gate())
    await bus.publish(stored("x"))
    assert not await bus.drain(0.001)


async def test_stop_lets_handlers_finish_what_they_began() -> None:
    bus = EventBus()
    await bus.start()
    heard: list[str] = []

    async def relay(event: MessageStored) -> None:
        await asyncio.sleep(0)
        await bus.publish(closed(event.message.text))

    async def listen(event: UtteranceClosed) -> None:
        heard.append(event.utterance.text)

    bus.subscribe(MessageStored, relay)
    bus.subscribe(UtteranceClosed, listen)
    await bus.publish(stored("x"))
    stopping = asyncio.create_task(bus.stop(5))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="not running"):
        await bus.publish(stored("from outside", "g7"))
    assert await stopping
    assert (heard, bus.failures) == (["x"], 0)
    with pytest.raises(RuntimeError):
        bus.publish_result(closed("late"))


async def test_stop_cancels_what_hangs_and_frees_who_waits() -> None:
    bus = EventBus(lane_capacity=1)
    await bus.start()
    bus.subscribe(MessageStored, Gate())
    await bus.publish(stored("hangs"))
    await settle()
    await bus.publish(stored("fills"))
    held = asyncio.create_task(bus.publish(stored("held")))
    await settle()
    before = asyncio.all_tasks() - {held}
    assert not await bus.stop(0.01)
    with pytest.raises(RuntimeError, match="not running"):
        await asyncio.wait_for(held, 5)
    assert not [task for task in before if task.get_name().startswith("lane") and not task.done()]
    assert bus.waiting == 0


async def test_a_bus_that_was_not_started_takes_nothing() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        await EventBus().publish(stored("x"))


async def test_events_nobody_listens_to_pass(bus: EventBus) -> None:
    await bus.publish(stored("x"))
    assert await bus.drain(5)
    assert bus.handled == 1
