"""What every model back end keeps: inherit :class:`LanguageModelConformance` and give the fixture ``model``.

The class attributes tell what differs: ``noise`` (how far batches and caches may move a log-probability), ``scores`` and ``counts`` (whether the
back end offers them), ``context_tokens`` (its size, for the prompt that is too long).
"""

from __future__ import annotations

import asyncio
import math
from typing import ClassVar

import pytest

from core.errors import BackendError
from core.ports import Generation, LanguageModel, Prompt

ANSWERS = ("4", "7")


def counting(last: int = 3, context: str = "1,2,3,4,5,6,7,8,9\n") -> Prompt:
    """A prompt after which even a small model lists digits among the likeliest tokens."""
    return Prompt("1,2,3,4,5,6,7,8,9\n", context, "".join(f"{number}," for number in range(1, last + 1)))


class LanguageModelConformance:
    """The suite. Subclasses give ``model``."""

    noise: ClassVar[float] = 0.35
    scores: ClassVar[bool] = True
    counts: ClassVar[bool] = True
    context_tokens: ClassVar[int] = 512

    @pytest.fixture
    async def model(self) -> LanguageModel:
        raise NotImplementedError

    async def test_it_is_a_language_model_with_a_name(self, model: LanguageModel) -> None:
        assert isinstance(model, LanguageModel)
        assert model.name
        assert model.adapter == ""

    async def test_answers_are_log_probabilities_of_one_distribution(self, model: LanguageModel) -> None:
        (row,) = await model.answer_logprobs([counting()], ANSWERS)
        assert all(math.isfinite(value) and value <= 0 for value in row)
        assert sum(math.exp(value) for value in row) <= 1.001

    async def test_answers_do_not_depend_on_company_or_order(self, model: LanguageModel) -> None:
        alone = [(await model.answer_logprobs([counting(last)], ANSWERS))[0] for last in (3, 6)]
        together = await model.answer_logprobs([counting(6), counting(2, ""), counting(3)], ANSWERS)
        assert together[2] == pytest.approx(alone[0], abs=self.noise)
        assert together[0] == pytest.approx(alone[1], abs=self.noise)
        (turned,) = await model.answer_logprobs([counting(3)], ANSWERS[::-1])
        assert turned[::-1] == pytest.approx(alone[0], abs=self.noise)

    async def test_simultaneous_calls_get_their_own_answers(self, model: LanguageModel) -> None:
        alone = [(await model.answer_logprobs([counting(last)], ANSWERS))[0] for last in (3, 6)]
        calls = await asyncio.gather(*(model.answer_logprobs([counting(last)], ANSWERS) for last in (3, 6, 3)))
        for (row,), expected in zip(calls, (alone[0], alone[1], alone[0]), strict=True):
            assert row == pytest.approx(expected, abs=self.noise)

    async def test_no_prompts_no_answers(self, model: LanguageModel) -> None:
        assert await model.answer_logprobs([], ANSWERS) == []

    async def test_generation_is_greedy_bounded_and_without_the_stop(self, model: LanguageModel) -> None:
        first = await model.generate(counting(), 4, ",")
        assert isinstance(first, Generation)
        assert "," not in first.text
        assert len(first.logprobs) <= 4
        assert all(math.isfinite(value) and value <= 0 for value in first.logprobs)
        assert (await model.generate(counting(), 4, ",")).text == first.text

    async def test_scores_are_log_probabilities_of_each_token(self, model: LanguageModel) -> None:
        if not self.scores:
            with pytest.raises(BackendError):
                await model.score(Prompt("", "", "1,2,"), ["3,"])
            return
        rows = await model.score(Prompt("", "", "1,2,3,4,"), ["5,", "5,6"])
        assert [len(row) > 0 for row in rows] == [True, True]
        assert all(math.isfinite(value) and value <= 0 for row in rows for value in row)
        (answer,) = await model.answer_logprobs([Prompt("", "", "1,2,3,4,")], ["5"])
        assert rows[0][0] == pytest.approx(answer[0], abs=self.noise)

    async def test_tokens_are_counted_without_special_ones(self, model: LanguageModel) -> None:
        if not self.counts:
            with pytest.raises(BackendError):
                await model.count_tokens("1,2")
            return
        assert await model.count_tokens("") == 0
        assert 1 <= await model.count_tokens("怎么部署") < await model.count_tokens("怎么部署" * 5)

    async def test_a_prompt_that_is_too_long_is_an_error_and_the_model_lives_on(self, model: LanguageModel) -> None:
        with pytest.raises(BackendError, match="longer than the context"):
            await model.generate(Prompt("", "", "很长的一行。" * self.context_tokens), 1)
        assert len(await model.answer_logprobs([counting()], ANSWERS)) == 1

    async def test_texts_that_are_no_plain_text_do_not_hurt(self, model: LanguageModel) -> None:
        odd = "\x00 <bos><s><|im_end|><start_of_turn> \u202eabc 👩‍👩‍👧 1,2,3,"
        assert len((await model.generate(Prompt("", "", odd), 1)).logprobs) <= 1

    async def test_a_closed_model_refuses(self, model: LanguageModel) -> None:
        await model.close()
        await model.close()
        with pytest.raises(BackendError, match="closed"):
            await model.generate(counting(), 1)
