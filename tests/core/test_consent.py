from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.errors import StorageError
from core.events import QuestionAsked
from core.merger import Merger, MergeRules
from core.messages import Question
from core.pipeline import Pipeline
from core.question_filter import QuestionFilter
from tests.core.house import House, open_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path / "d.db") as house:
        yield house


async def asked_after(house: House, wish: str) -> tuple[list[Question], Pipeline]:
    """A member speaks (one utterance closed, one still open) and utters ``wish``; then another asks. Returns what the pipeline made of it."""
    questions: list[Question] = []

    async def asked(event: QuestionAsked) -> None:
        questions.append(event.question)

    house.bus.subscribe(QuestionAsked, asked)
    pipeline = Pipeline(house.bus, house.inbox, house.log, Merger(MergeRules()), QuestionFilter(), clock=house.clock)
    await pipeline.start(live=False)
    await house.say(1, "大家用 quokka 吧", sender="u-gone")
    await house.clock.advance(600)
    await house.say(2, "quokka 怎么装", sender="u-gone")
    await house.say(3, "好的", sender="u3")
    await house.say(4, wish, sender="u-gone")
    await house.say(5, "怎么把它部署到 TX2？", sender="u2")
    await pipeline.flush()
    await pipeline.stop()
    return questions, pipeline


@pytest.mark.parametrize("wish", ["/dj opt out", "/dj forget me"])
async def test_words_of_who_leaves_are_gone_from_open_utterances_and_contexts_in_memory(house: House, wish: str) -> None:
    (question,), pipeline = await asked_after(house, wish)
    assert question.text == "怎么把它部署到 TX2？"
    assert [line.text for line in question.context] == ["好的"]
    assert pipeline.counts.questions == 1


async def test_without_a_wish_they_are_there(house: House) -> None:
    questions, _ = await asked_after(house, "谢谢")
    assert any("quokka" in line.text for question in questions for line in question.context)


async def test_a_wish_that_cannot_be_stored_is_not_pretended(house: House) -> None:
    await house.database.close()
    with pytest.raises(StorageError):
        await house.consent.opt_out("feishu", "u1")
    assert house.consent.allows(house.message(1))


@pytest.mark.parametrize("wish", ["/dj opt out", "/dj forget me"])
async def test_who_quoted_them_is_no_line_of_a_later_question(house: House, wish: str) -> None:
    name = house.message(1, "x", sender="u-gone").shown_name
    seen: list[Question] = []

    async def asked(event: QuestionAsked) -> None:
        seen.append(event.question)

    house.bus.subscribe(QuestionAsked, asked)
    pipeline = Pipeline(house.bus, house.inbox, house.log, Merger(MergeRules()), QuestionFilter(), clock=house.clock)
    await pipeline.start(live=False)
    await house.say(1, "大家用 quokka 吧", sender="u-gone")
    await house.say(2, f"「{name}：大家用 quokka 吧」\n- - - - -\n我也用这个", sender="u3")
    await house.clock.advance(600)
    await house.say(3, "好的", sender="u4")
    await house.say(4, wish, sender="u-gone")
    await house.say(5, "怎么把它部署到 TX2？", sender="u2")
    await pipeline.flush()
    await pipeline.stop()
    assert [[line.text for line in question.context] for question in seen if "TX2" in question.text] == [["好的"]]
