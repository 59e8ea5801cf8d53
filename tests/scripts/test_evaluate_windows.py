"""Whole windows through the real pipeline on a real database; the models answer by rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from core.config import Config
from core.errors import BackendError
from core.messages import Question, Resolution, Verdict
from scripts.evaluation.forms import Window, WindowQuestion
from scripts.evaluation.results import Result
from scripts.evaluation.window_scores import evaluate_windows
from scripts.evaluation.windows import adds_foreign_term, is_right
from tests.scripts.evaluation_files import WINDOW, RuleGate, RuleModels, RuleResolver


async def measure(models: RuleModels, *windows: dict[str, Any]) -> Result:
    steps: list[int] = []
    result = await evaluate_windows([Window.model_validate(window) for window in windows or (WINDOW,)], models, Config(), steps.append)
    assert sum(steps) == len(windows or (WINDOW,))
    return result


async def test_right_wrong_refused_and_found_over_a_window() -> None:
    result = await measure(RuleModels())
    assert result.n == 4
    assert result.metrics["found"] == 3, "the greeting is no question for the filter"
    assert (result.metrics["right"], result.metrics["wrong"], result.metrics["refused"]) == (1, 1, 1)
    assert result.metrics["precision"] == 1.0
    assert result.metrics["recall"] == pytest.approx(2 / 3), "what was not found counts as judged no"
    assert result.metrics["invented"] == 0
    assert result.breakdown["kind"]["split"]["right"] == 1
    assert result.breakdown["kind"]["unresolvable"]["wrong"] == 1, "what stands nowhere can only be guessed"
    assert result.breakdown["difficulty"]["easy"]["n"] == 1
    assert result.breakdown["language"]["zh"]["n"] == 4


async def test_the_resolver_is_told_which_message_a_question_replies_to() -> None:
    seen: list[list[bool]] = []

    class Looks(RuleResolver):
        async def resolve(self, question: Question) -> Resolution:
            seen.append([line.is_reply_target for line in question.context])
            return await super().resolve(question)

    asked = WINDOW["questions"][0]["indices"][0]
    messages = [{**message, "reply_to": 0} if index == asked else message for index, message in enumerate(WINDOW["messages"])]
    await measure(RuleModels(resolver=Looks("mmpose")), {**WINDOW, "messages": messages})
    assert any(flags[:1] == [True] for flags in seen)


def test_a_reply_goes_to_an_earlier_message() -> None:
    messages = [{**message, "reply_to": 3} for message in WINDOW["messages"]]
    with pytest.raises(ValidationError, match="not before it"):
        Window.model_validate({**WINDOW, "messages": messages})


async def test_the_wrong_antecedent_is_wrong_although_it_stands_in_the_conversation() -> None:
    result = await measure(RuleModels(resolver=RuleResolver("tesseract")))
    assert (result.metrics["right"], result.metrics["wrong"]) == (0, 2)


async def test_the_curve_shows_what_another_threshold_would_accept() -> None:
    result = await measure(RuleModels(resolver=RuleResolver("mmpose", confidence=0.4)))
    assert (result.metrics["right"], result.metrics["wrong"], result.metrics["refused"]) == (0, 0, 3)
    by_threshold = {point["threshold"]: point for point in result.curve}
    assert by_threshold[0.4]["right"] == 1
    assert by_threshold[0.4]["wrong_share"] == 0.5
    assert by_threshold[0.4]["right_share"] == pytest.approx(1 / 3)
    assert by_threshold[0.45]["accepted"] == 0


async def test_windows_are_chats_of_their_own() -> None:
    lone = {**WINDOW, "id": "w2", "messages": [WINDOW["messages"][4]], "questions": [{"indices": [0], "label": "yes", "gold": None, "kind": "unresolvable"}]}
    result = await measure(RuleModels(), *([WINDOW] * 9), lone)
    assert result.metrics["right"] == 9
    assert result.metrics["refused"] == 10, "mmpose of another window is an invention here"


async def test_without_a_gate_everything_stays_unjudged() -> None:
    result = await measure(RuleModels(gate=None))
    assert (result.metrics["recall"], result.metrics["refused"], result.metrics["found"]) == (0.0, 3, 3)


class FailingGate(RuleGate):
    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        raise BackendError("llama_cpp", "out of memory")


async def test_a_failing_model_is_an_error_and_no_figure() -> None:
    with pytest.raises(BackendError):
        await measure(RuleModels(gate=FailingGate()))


def labelled(**fields: Any) -> WindowQuestion:
    return WindowQuestion.model_validate({"indices": [0], "label": "yes", **fields})


@pytest.mark.parametrize(
    ("fields", "rewrite", "right"),
    [
        ({"must_contain": ["RapidOCR"]}, "ＲＡＰＩＤ ocr 支持竖排吗", True),
        ({"must_contain": ["RapidOCR", "竖排"]}, "RapidOCR 支持吗", False),
        ({"must_contain": ["RapidOCR"], "must_not_contain": ["tesseract"]}, "RapidOCR tesseract 支持竖排吗", False),
        ({"must_contain": ["RapidOCR"], "must_not_contain": ["竖排"]}, "RapidOCR 支持竖排吗", True),
        ({"gold": "RapidOCR支持竖排吗"}, "rapidocr 它支持竖排吗", True),
        ({"gold": "RapidOCR支持竖排吗"}, "paddle支持竖排吗", False),
        ({"gold": "盖章识别支持竖排吗"}, "章识别盖的支持竖排吗", True),
        ({"gold": None}, "RapidOCR支持竖排吗", False),
        # gold says only what was asked already
        ({"gold": "竖排支持竖排吗"}, "竖排支持竖排吗", True),
        ({"gold": "竖排支持竖排吗"}, "RapidOCR支持竖排吗", False),
    ],
)
def test_what_makes_a_rewrite_right(fields: dict[str, Any], rewrite: str, right: bool) -> None:
    assert is_right(labelled(**fields), "它支持竖排吗", rewrite) is right


def test_what_is_foreign_to_a_question_that_stands_alone() -> None:
    listed, unlisted = labelled(label="no", must_not_contain=["drone"]), labelled(label="no")
    question = "does woodpecker support matrix builds?"
    assert adds_foreign_term(listed, question, "does woodpecker with drone support matrix builds?")
    assert not adds_foreign_term(listed, question, "does woodpecker CI support matrix builds?")
    assert adds_foreign_term(unlisted, question, "does woodpecker on drone support matrix builds?")
    assert not adds_foreign_term(unlisted, question, "does the woodpecker support matrix builds?")
