"""Replies vanish from the group with the words that they were made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from core.errors import SendError
from core.messages import ConversationKey, Message, Question, Recall, Utterance
from core.ports import OutgoingReply
from core.taking_back import LOOK_SECONDS, TakingBack
from tests.adapters.manual_clock import ManualClock, eventually
from tests.core.house import GROUP, House, RecordingAdapter, open_house, resolution, verdict


class RecallingAdapter(RecordingAdapter):
    """Remembers what it took back. ``refusals``: raised by the next recalls."""

    def __init__(self, *, recalls: bool = True) -> None:
        super().__init__()
        self.capabilities = replace(self.capabilities, recalls=recalls)
        self.taken_back: list[str] = []
        self.refusals: list[Exception] = []

    async def recall(self, conversation: ConversationKey, message_id: str) -> None:
        assert conversation == GROUP
        if self.refusals:
            raise self.refusals.pop(0)
        self.taken_back.append(message_id)


@asynccontextmanager
async def taking_back(path: Path, adapter: RecallingAdapter, clock: ManualClock | None = None) -> AsyncIterator[House]:
    async with open_house(path, clock, adapter=adapter) as house:
        taker = TakingBack(house.bus, house.outbox, {"feishu": adapter}, house.clock)
        await house.delivery.start()
        await taker.start()
        yield house
        await taker.stop()


async def replied(house: House, number: int, context: tuple[Message, ...] = ()) -> Question:
    """A question that the bot answered in its group: the platform calls the answers om_1, om_2 and so on."""
    question = await house.ask(number, "怎么把它部署到 TX2？", sender=f"u{number}", context=context)
    await house.log.judged(question.id, verdict(0.9))
    await house.log.resolved(question.id, resolution("怎么把 mmpose 部署到 TX2？"))
    before = len(house.adapter.sent)
    await house.delivery.enqueue(OutgoingReply(GROUP, "怎么把 mmpose 部署到 TX2？", f"reply:{question.id}", f"m{number}", f"u{number}"))
    await eventually(lambda: len(house.adapter.sent) == before + 1)
    return question


async def recall(house: House, number: int) -> None:
    await house.ingest.recall(Recall("feishu", "g1", f"m{number}", house.clock.now()))


async def test_the_reply_to_a_recalled_question_is_taken_back_once(tmp_path: Path) -> None:
    adapter = RecallingAdapter()
    async with taking_back(tmp_path / "d.db", adapter) as house:
        await replied(house, 1)
        await replied(house, 2)
        await recall(house, 1)
        await recall(house, 1)
        await eventually(lambda: adapter.taken_back, tick=lambda: house.clock.advance(1))
        await house.clock.advance(3 * LOOK_SECONDS)
        assert adapter.taken_back == ["om_1"]


async def test_so_is_one_whose_question_was_said_in_several_messages(tmp_path: Path) -> None:
    adapter = RecallingAdapter()
    async with taking_back(tmp_path / "d.db", adapter) as house:
        parts = [house.message(1, "怎么把它"), house.message(2, "部署到 TX2？")]
        await house.inbox.add(parts)
        await house.log.record_many([(Utterance(tuple(parts)), None)])
        await house.delivery.enqueue(OutgoingReply(GROUP, "答案", f"reply:{parts[0].key}", "m2", "u1"))
        await eventually(lambda: adapter.sent)
        await recall(house, 1)
        await eventually(lambda: adapter.taken_back == ["om_1"], tick=lambda: house.clock.advance(1))


async def test_so_is_one_that_shows_a_recalled_line_and_one_to_a_member_who_left(tmp_path: Path) -> None:
    adapter = RecallingAdapter()
    async with taking_back(tmp_path / "d.db", adapter) as house:
        line = house.message(9, "mmpose 真好用", sender="u9")
        await house.inbox.add([line])
        await replied(house, 1, (line,))
        await replied(house, 2)
        await recall(house, 9)
        await eventually(lambda: adapter.taken_back == ["om_1"], tick=lambda: house.clock.advance(1))
        await house.consent.forget("feishu", "u2")
        await eventually(lambda: adapter.taken_back == ["om_1", "om_2"], tick=lambda: house.clock.advance(1))


async def test_a_platform_that_does_not_let_it_is_asked_once_and_one_that_is_busy_again(tmp_path: Path) -> None:
    adapter = RecallingAdapter()
    async with taking_back(tmp_path / "d.db", adapter) as house:
        for number, refusal in enumerate((SendError("feishu", "too old", permanent=True), RuntimeError("defect"), SendError("feishu", "HTTP 502")), 1):
            adapter.refusals = [refusal]
            await replied(house, number)
            await recall(house, number)
            await eventually(lambda: not adapter.refusals)
        await eventually(lambda: adapter.taken_back, tick=lambda: house.clock.advance(5))
        await house.clock.advance(3 * LOOK_SECONDS)
        assert adapter.taken_back == ["om_3"]


async def test_what_was_recalled_while_the_bot_was_down_or_sending_is_taken_back_and_what_is_days_old_is_not(tmp_path: Path) -> None:
    clock, adapter = ManualClock(), RecallingAdapter()
    async with open_house(tmp_path / "d.db", clock, adapter=adapter) as house:
        await house.delivery.start()
        await replied(house, 1)
        await recall(house, 1)
        await clock.advance(2 * 86400)
        await replied(house, 2)
        await recall(house, 2)
    async with taking_back(tmp_path / "d.db", adapter, clock):
        await eventually(lambda: adapter.taken_back == ["om_2"])


async def test_where_the_platform_cannot_recall_nothing_is_tried(tmp_path: Path) -> None:
    adapter = RecallingAdapter(recalls=False)
    async with taking_back(tmp_path / "d.db", adapter) as house:
        await replied(house, 1)
        await recall(house, 1)
        await house.clock.advance(2 * LOOK_SECONDS)
        assert adapter.taken_back == []
