"""Two people's short dialogues: which questions a writer gets, what becomes of what it writes, and the packaged model with the shipped adapter."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.config import Config
from core.dialogue import DialogueCalibration, DialogueResolver, is_dialogue
from core.errors import BackendError, InputError
from core.gates.factory import SHIPPED, open_models
from core.messages import ContextLine, ConversationKey, Question, RefusalReason, Resolution
from core.ports import Generation, Prompt, Resolver

LINES = (ContextLine("小林", "你看过流浪地球吗"), ContextLine("阿杰", "看过的，挺好看"))
ASKED = Question("q", ConversationKey("test", "g"), "小林", "是谁演的", datetime(2026, 3, 2, tzinfo=UTC), LINES)
CALIBRATION = DialogueCalibration("t", "dialogue-1", bias=4.0, mean_weight=4.0, least_weight=0.0, threshold=0.8)


class Writer:
    """A language model that writes what it was told, each token as likely as ``probability``."""

    name, adapter = "writer", "dialogue/adapter.gguf"

    def __init__(self, text: str, probability: float = 0.95, *, fails: bool = False) -> None:
        self.text, self.probability, self.fails, self.closed = text, probability, fails, False
        self.prompts: list[Prompt] = []

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        raise AssertionError("a writer is not asked to judge")

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        raise AssertionError("a writer is not asked to judge")

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        self.prompts.append(prompt)
        if self.fails:
            raise BackendError(self.name, "out of memory")
        return Generation(f" {self.text}", (math.log(self.probability),) * 5)

    async def count_tokens(self, text: str) -> int:
        return len(text)

    async def close(self) -> None:
        self.closed = True


class Group:
    """The resolver behind: says that it was asked, and what it is sure of."""

    closed = False

    def __init__(self, rewrite: str | None = None) -> None:
        self.rewrite = rewrite

    async def resolve(self, question: Question) -> Resolution:
        return Resolution(self.rewrite, self.rewrite, 0.0, "group", "p", None if self.rewrite else RefusalReason.NO_CANDIDATE)

    async def close(self) -> None:
        self.closed = True


def many(*senders: str) -> Question:
    return replace(ASKED, context=tuple(ContextLine(name, "mmpose 支持移动端部署么？") for name in senders))


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (many("阿杰"), True),
        (many("阿杰", "小林", "阿杰"), True),
        (many("小林"), True),
        (many(), False),
        (many("阿杰", "小林", "阿杰", "小林"), False),
        (many("阿杰", "王五"), False),
        (replace(ASKED, context=(replace(LINES[0], is_reply_target=True),)), False),
        (replace(ASKED, quotes_unseen=True), False),
        (replace(ASKED, text="「阿杰：看过的，挺好看」\n- - - - - -\n是谁演的"), False),
    ],
)
async def test_two_people_and_three_lines_are_a_dialogue_and_all_else_goes_to_the_group(question: Question, expected: bool) -> None:
    assert is_dialogue(question) is expected
    writer = Writer("流浪地球是谁演的")
    resolution = await DialogueResolver(Group(), writer, CALIBRATION).resolve(question)
    assert (resolution.model == "group") is not expected
    assert len(writer.prompts) == expected


@pytest.mark.parametrize(
    ("text", "probability", "reason"),
    [
        ("流浪地球是谁演的", 0.95, None),
        ("流浪地球是谁演的", 0.5, RefusalReason.UNSURE),
        ("三体是谁演的", 0.95, RefusalReason.INVENTED),
        ("流浪地球", 0.95, RefusalReason.LOST_WORDS),
    ],
)
async def test_what_is_written_goes_through_the_acceptance_rule(text: str, probability: float, reason: RefusalReason | None) -> None:
    resolver = DialogueResolver(Group(), Writer(text, probability), CALIBRATION)
    resolution = await resolver.resolve(ASKED)
    assert isinstance(resolver, Resolver)
    assert resolution.reason is reason
    assert resolution.candidate == text
    assert resolution.rewrite == (text if reason is None else None)
    assert (resolution.model, resolution.prompt_version, resolution.adapter) == ("dialogue t", "dialogue-1", "dialogue/adapter.gguf")


@pytest.mark.parametrize(("text", "reason"), [("流浪地球是谁演的", RefusalReason.UNSURE), ("三体是谁演的", RefusalReason.INVENTED)])
async def test_where_the_writer_is_refused_nothing_is_said_however_sure_the_group_is(text: str, reason: RefusalReason) -> None:
    resolution = await DialogueResolver(Group("吴京是谁演的"), Writer(text, 0.5), CALIBRATION).resolve(ASKED)
    assert (resolution.model, resolution.candidate, resolution.rewrite, resolution.reason) == ("dialogue t", text, None, reason)


async def test_the_prompt_holds_who_speaks_as_letters_and_each_message_on_one_line() -> None:
    writer = Writer("流浪地球是谁演的")
    await DialogueResolver(Group(), writer, CALIBRATION).resolve(replace(ASKED, text="是谁\n演的"))
    assert writer.prompts[0].text == "Q: 你看过流浪地球吗\nA: 看过的，挺好看\nQ: 是谁 演的\n=>"


@pytest.mark.parametrize("writer", [Writer("是谁演的"), Writer("那是谁演的？"), Writer(""), Writer("", fails=True)])
async def test_a_writer_that_changes_nothing_or_fails_leaves_the_question_to_the_group(writer: Writer) -> None:
    assert (await DialogueResolver(Group(), writer, CALIBRATION).resolve(ASKED)).model == "group"


async def test_the_admins_own_least_confidence_goes_before_the_shipped_one_and_close_reaches_both() -> None:
    group, writer = Group(), Writer("流浪地球是谁演的", 0.5)
    resolver = DialogueResolver(group, writer, CALIBRATION, min_confidence=0.1)
    assert (await resolver.resolve(ASKED)).rewrite == "流浪地球是谁演的"
    await resolver.close()
    assert group.closed
    assert writer.closed


@pytest.mark.parametrize("content", ["", "{}", "[]", json.dumps({"version": "1", "prompt": "rewrite-v1", "bias": 0, "mean_weight": 1, "least_weight": 0, "threshold": 0.9})])
def test_a_calibration_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"calibration\.json"):
        DialogueCalibration.load(path)
    with pytest.raises(InputError):
        DialogueCalibration.load(tmp_path / "none.json")


@pytest.mark.model
async def test_the_shipped_writer_puts_what_was_spoken_of_into_the_question() -> None:
    models = await open_models(Config())
    try:
        assert models.resolver is not None
        resolution = await models.resolver.resolve(ASKED)
    finally:
        await models.close()
    assert resolution.model.startswith("dialogue ")
    assert resolution.candidate is not None
    assert "流浪地球" in resolution.candidate
    assert "演" in resolution.candidate
    assert DialogueCalibration.load(SHIPPED / "dialogue" / "calibration.json").threshold <= 1.0
