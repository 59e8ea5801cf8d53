"""Messages per second through the spine without a model, durable ingest, and NoneBot2's plain event dispatch beside them."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Sequence
from pathlib import Path

from core.bus import EventBus
from core.events import MessageStored
from core.merger import Merger
from core.messages import Message
from core.pipeline import Pipeline
from core.question_filter import QuestionFilter
from storage.engine import open_database
from storage.inbox import SqlInbox
from storage.questions import SqlQuestionLog

BATCH = 500


async def spine(messages: Sequence[Message], folder: Path) -> dict[str, float]:
    """Store, merge, filter and log all ``messages``: the replay's way without a model."""
    database = await open_database(f"sqlite:///{folder / 'spine.db'}")
    bus = EventBus()
    inbox, questions = SqlInbox(database), SqlQuestionLog(database)
    pipeline = Pipeline(bus, inbox, questions, Merger(), QuestionFilter())
    await bus.start()
    await pipeline.start(live=False)
    wall, cpu = time.perf_counter(), time.process_time()
    for begin in range(0, len(messages), BATCH):
        for message in await inbox.add(messages[begin : begin + BATCH]):
            await bus.publish(MessageStored(message, live=False))
    await pipeline.flush()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    counts = await questions.counts()
    await pipeline.stop()
    await bus.stop()
    await database.close()
    return {
        "messages": len(messages),
        "seconds": wall,
        "cpu_seconds": cpu,
        "messages_per_second": len(messages) / wall,
        "messages_per_cpu_second": len(messages) / cpu,
        "utterances": counts.utterances,
        "questions": counts.questions,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def durable_ingest(messages: Sequence[Message], folder: Path, writers: int = 32) -> dict[str, float]:
    """Single messages from ``writers`` tasks at once, each acknowledged only when it is on disk; group commit shares the transactions."""
    database = await open_database(f"sqlite:///{folder / 'ingest.db'}")
    inbox = SqlInbox(database)
    waiting = iter(messages)

    async def writer() -> None:
        for message in waiting:
            await inbox.add([message])

    started = time.perf_counter()
    await asyncio.gather(*(writer() for _ in range(writers)))
    seconds = time.perf_counter() - started
    await database.close()
    return {"messages": len(messages), "writers": writers, "seconds": seconds, "messages_per_second": len(messages) / seconds}


async def bus_dispatch(messages: Sequence[Message]) -> dict[str, float]:
    """Our bus alone: publish and handle, one handler that does nothing."""
    bus = EventBus()

    async def handle(event: MessageStored) -> None:
        return None

    bus.subscribe(MessageStored, handle)
    await bus.start()
    started = time.perf_counter()
    for message in messages:
        await bus.publish(MessageStored(message))
    await bus.drain()
    seconds = time.perf_counter() - started
    await bus.stop()
    return {"events": len(messages), "seconds": seconds, "events_per_second": len(messages) / seconds}


async def nonebot_dispatch(messages: Sequence[Message]) -> dict[str, float] | None:
    """NoneBot2's plain dispatch: one matcher that does nothing. None where NoneBot2 is not installed."""
    try:
        import nonebot
    except ImportError:
        return None
    from nonebot.message import handle_event

    from scripts.benchmarks.nonebot_bot import make_bot_and_event

    nonebot.init(driver="~none", log_level="ERROR")

    async def handle() -> None:
        return None

    nonebot.on_message().append_handler(handle)
    bot, make_event = make_bot_and_event()
    started = time.perf_counter()
    for message in messages:
        await handle_event(bot, make_event(message.text, message.sender_id))
    seconds = time.perf_counter() - started
    return {"events": len(messages), "seconds": seconds, "events_per_second": len(messages) / seconds}
