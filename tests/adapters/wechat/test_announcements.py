"""A puppet service names each message once and holds its words until they are asked for: what is named and not delivered outlives the bot."""

from __future__ import annotations

import asyncio

import pytest
from grpclib.const import Status

from core.errors import StorageError
from tests.adapters.manual_clock import eventually
from tests.adapters.wechat.loopback_puppet import BOT, LoopbackPuppet
from tests.adapters.wechat.wechaty_bench import Bench, running


def restarted(bench: Bench) -> Bench:
    """The bot's next life: all that it has is what was remembered."""
    later = Bench(bench.server)
    later.sink.announcements = bench.sink.announcements
    return later


async def test_a_message_is_noted_before_it_is_fetched_until_it_is_delivered(bench: Bench) -> None:
    gate = bench.server.delays["m1"] = asyncio.Event()
    bench.server.message("m1")
    await eventually(lambda: bench.server.calls["MessagePayload"] == 1)
    assert bench.sink.announcements.named == ["m1"]
    bench.sink.hold()
    gate.set()
    await eventually(lambda: bench.sink.entered == 1)
    assert bench.sink.announcements.named == ["m1"]
    assert bench.adapter.health().waiting == 0
    bench.sink.release()
    await bench.until(lambda: bench.sink.announcements.named == [])
    assert bench.sink.ids() == ["m1"]


async def test_what_was_not_fetched_is_fetched_after_a_restart_before_what_is_new(server: LoopbackPuppet) -> None:
    async with running(Bench(server)) as bench:
        server.delays |= {"m1": asyncio.Event(), "m2": asyncio.Event()}
        for message_id in ("m1", "m2"):
            server.message(message_id)
        await eventually(lambda: server.calls["MessagePayload"] == 2)
        assert bench.adapter.health().waiting == 2
    assert bench.sink.messages == []
    server.delays.clear()
    later = restarted(bench)
    server.message("m3")
    async with running(later):
        await later.until(lambda: len(later.sink.messages) == 3)
        assert later.sink.ids() == ["m1", "m2", "m3"]
        await later.until(lambda: later.sink.announcements.named == [])


async def test_what_could_not_be_stored_is_stored_after_a_restart(server: LoopbackPuppet) -> None:
    async with running(Bench(server)) as bench:
        bench.sink.errors += [RuntimeError("disk full")] * 20
        server.message("m1")
        await bench.until(lambda: bench.sink.entered == 3)
    later = restarted(bench)
    async with running(later):
        assert await later.text_of("m1") == "你好"


async def test_what_is_named_while_the_bot_stops_waits_for_its_next_start(bench: Bench) -> None:
    bench.sink.hold()
    bench.server.message("m1")
    await eventually(lambda: bench.sink.entered == 1)
    stopping = asyncio.create_task(bench.adapter.stop())
    await asyncio.sleep(0.05)
    bench.server.message("m2")
    await eventually(lambda: bench.sink.announcements.named == ["m1", "m2"])
    bench.sink.release()
    await eventually(stopping.done, tick=lambda: bench.clock.advance(1.0))
    await stopping
    assert (bench.sink.ids(), bench.sink.announcements.named) == (["m1"], ["m2"])
    later = restarted(bench)
    async with running(later):
        assert await later.text_of("m2") == "你好"


async def test_what_is_nobodys_message_is_settled_too(bench: Bench) -> None:
    bench.server.message("private", room="")
    bench.server.message("own", sender=BOT)
    bench.server.message("recall", "爱丽丝撤回了一条消息", kind=13)
    await eventually(lambda: bench.server.calls["MessagePayload"] == 3)
    await bench.until(lambda: bench.sink.announcements.named == [])
    assert bench.sink.messages == []


async def test_a_payload_that_was_given_up_is_asked_for_at_the_next_connection(bench: Bench) -> None:
    bench.server.event(2, {"messageId": "m1"})
    await bench.until(lambda: bench.adapter.health().dropped["payload_missing"] == 1, step=5.0)
    assert bench.sink.announcements.named == ["m1"]
    bench.server.payloads["m1"] = LoopbackPuppet.payload("m1")
    bench.server.end_stream(Status.UNAVAILABLE)
    assert await bench.text_of("m1") == "你好"


async def test_a_store_that_cannot_note_a_message_does_not_keep_it_from_being_delivered(bench: Bench) -> None:
    bench.sink.announcements.errors.append(StorageError("sqlite:///d.db", "the disk is full", "Free some space"))
    bench.server.message("m1")
    assert await bench.text_of("m1") == "你好"


@pytest.mark.parametrize("hanging", ["MessagePayload", "Ding"])
async def test_a_call_that_hangs_ends_at_its_deadline(impatient: Bench, hanging: str) -> None:
    impatient.server.hanging.add(hanging)
    impatient.server.message("m1")
    await impatient.until(lambda: impatient.server.calls[hanging] >= 2, step=5.0)
    impatient.server.hanging.clear()
    assert await impatient.text_of("m1") == "你好"
