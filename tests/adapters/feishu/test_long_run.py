"""A conversation under everything at once, and an event loop that nothing blocks."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from core.errors import SendError
from core.messages import ConversationKey
from core.ports import OutgoingReply
from tests.adapters.feishu.conftest import Running
from tests.adapters.feishu.loopback import Failure
from tests.adapters.feishu.payloads import text_event
from tests.adapters.watched_loop import watched_loop

COUNT = 300


async def test_300_messages_under_every_fault_are_all_stored_in_order_and_every_reply_shows_once(running: Running) -> None:
    chance = random.Random(7)
    feishu, adapter, sink = running.feishu, running.adapter, running.sink
    feishu.delays["/open-apis/contact/v3/users/bob"] = 0.05
    feishu.failures["/open-apis/contact/v3/users/"] = [Failure(502, text="<html>"), Failure(400, 99991672)]
    replies: list[asyncio.Task[str]] = []

    async def say(index: int) -> None:
        chat = f"chat-{index % 2 + 1}"
        await feishu.push(f"f{index}", text_event(f"m{index}", f"第 {index} 句", chat, chance.choice(["alice", "bob", "carol"])))
        if chance.random() < 0.1:
            await feishu.push(f"f{index}-again", text_event(f"m{index}", f"第 {index} 句", chat))
        if index % 30 == 29:
            replies.append(asyncio.create_task(send(f"r{index}", chat)))

    async def send(key: str, chat: str) -> str:
        """As the durable outbox does: again with the same key until the platform takes it."""
        while True:
            try:
                return await adapter.send(OutgoingReply(ConversationKey("feishu", chat), f"答复 {key}", key))
            except SendError as error:
                if error.permanent:
                    raise
                await running.clock.sleep(error.retry_after or 1.0)

    faults = {
        50: lambda: feishu.failures.__setitem__("/open-apis/im/v1/messages", [Failure(502, text=""), Failure(429, text=""), Failure(400, 230020), Failure(400, 99991400)]),
        90: feishu.revoke_tokens,
        120: lambda: feishu.failures.__setitem__("/callback/ws/endpoint", [Failure(502, text="<html>"), Failure(200, 1), Failure(200, text="")]),
        200: lambda: sink.errors.append(OSError("database is locked")),
    }
    talking = asyncio.create_task(_talk(say, faults, {60, 121, 180}, running))
    await running.until(talking.done, step=0.02, timeout=60.0)  # virtual time runs ten times as fast as real time: a busy machine must not look like a dead line
    await talking
    await running.until(lambda: len({message.message_id for message in sink.messages}) >= COUNT - 1, step=0.02, timeout=60.0)
    feishu.black_hole = True
    before = feishu.connections
    await running.until(lambda: feishu.connections > before, step=0.5)
    feishu.black_hole = False
    await feishu.drop()  # whatever has been refused comes again with the next connection
    await running.until(lambda: {message.message_id for message in sink.messages} == {f"m{index}" for index in range(COUNT)}, step=0.05, timeout=60.0)
    await running.until(lambda: all(reply.done() for reply in replies), step=0.5)

    refused = {key.partition("-")[0].replace("f", "m") for key, code in feishu.acknowledged if code != 200}
    for chat in ("chat-1", "chat-2"):
        first_time = [int(name[1:]) for name in dict.fromkeys(sink.ids(chat)) if name not in refused]
        assert first_time == sorted(first_time)
    assert sorted(shown["text"] for shown in feishu.messages.values()) == sorted(f"答复 r{index}" for index in range(29, COUNT, 30))
    assert len(refused) <= 2


async def _talk(say: Any, faults: dict[int, Any], drops: set[int], running: Running) -> None:
    for index in range(COUNT):
        if index in faults:
            faults[index]()
        if index in drops:
            await running.feishu.drop()
        await say(index)


async def test_nothing_blocks_the_event_loop(running: Running) -> None:
    """No callback computes for 50 ms, and no socket operation that could block runs on the loop's thread, while the platform is slow, tokens are renewed, and connections drop."""
    feishu = running.feishu
    feishu.delays = {"/open-apis/": 0.1, "/callback/": 0.1}
    with watched_loop() as watch:
        for index in range(60):
            await feishu.push(f"f{index}", text_event(f"m{index}", f"第 {index} 句" * 20, sender_id=f"member-{index % 5}"))
        feishu.revoke_tokens()
        await running.finish(running.adapter.send(OutgoingReply(ConversationKey("feishu", "chat-1"), "答复", "k")))
        before = feishu.connections
        await feishu.drop()
        await running.until(lambda: feishu.connections > before, step=0.5)
        await running.until(lambda: len(set(running.sink.ids())) == 60, step=0.1)
        await running.finish(running.adapter.stop(), 1.0)
    assert watch.blocking == []
    assert watch.longest < 0.05
