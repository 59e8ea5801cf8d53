"""Candidate terms and their features."""

from __future__ import annotations

import math

import numpy as np

from core.antecedent_features import LINE_FEATURES, TERM_FEATURES, Scene, line_features, reach, term_features, terms_of
from core.antecedents import collect, split_quote
from core.messages import ContextLine


def lines(*pairs: tuple[str, str]) -> tuple[ContextLine, ...]:
    return tuple(ContextLine(sender, text, seconds_before=60.0 * (len(pairs) - index)) for index, (sender, text) in enumerate(pairs))


SCENE = Scene.of(
    "@七七 它能标旋转框不",
    "柚子",
    lines(("阿杰", "我把yolov8s转成rknn"), ("柚子", "有啥好用的标注工具"), ("七七", "@柚子 X-AnyLabeling，能挂SAM2自动标"), ("阿杰", "fp16是正常的")),
)


def keys(*texts: str) -> set[str]:
    return {term.key for term in collect(list(texts))}


def test_names_with_their_versions_and_noun_phrases_are_candidates() -> None:
    found = keys("NebulaGraph 3.8导入20亿边", "柯达金200的价格", "--max-model-len 8192 总算起来了")
    assert {"nebulagraph3.8", "nebulagraph", "--max-model-len"} <= found
    assert any("柯达" in key for key in found)


def test_mentions_links_stickers_and_function_words_are_none() -> None:
    found = keys("@阿杰 https://example.org/x [捂脸] ok thanks", "我们 这个 怎么")
    assert not any("阿杰" in key or "example" in key or "捂脸" in key or key in ("ok", "thanks", "我们") for key in found)


def test_a_term_knows_all_its_mentions() -> None:
    term = next(term for term in collect(["RapidOCR快", "别的", "用RapidOCR吧"]) if term.key == "rapidocr")
    assert term.lines == [0, 2]


def test_a_wechat_quotation_is_taken_apart() -> None:
    assert split_quote("「老莱：只能用它家的库」\n- - - - -\n有后端不") == ("老莱", "只能用它家的库", "有后端不")
    assert split_quote("没有引用") == ("", "", "没有引用")


def test_what_the_question_says_itself_is_no_candidate() -> None:
    assert "rapidocr" not in {term.key for term in terms_of(Scene.of("RapidOCR快吗", "a", lines(("b", "RapidOCR和Paddle"))))}


def test_features_point_to_the_line_of_the_one_who_is_addressed() -> None:
    features = line_features(SCENE)
    column = {name: features[:, index] for index, name in enumerate(LINE_FEATURES)}
    assert features.shape == (4, len(LINE_FEATURES))
    assert column["addressed_by_question"].tolist() == [0, 0, 1, 0]
    assert column["names_asker"].tolist() == [0, 0, 1, 0]
    assert column["same_sender"].tolist() == [0, 1, 0, 0]
    assert int(np.argmax(column["reach"])) == 2
    _, links = reach(SCENE, ["阿杰", "柚子", "七七"])
    assert math.isclose(links[4].sum(), 1.0)


def test_every_term_has_its_row() -> None:
    terms = terms_of(SCENE)
    features = line_features(SCENE)
    rows = term_features(SCENE, terms, features, np.array([0.1, 0.2, 0.9, 0.1]), lambda text: 1.0)
    assert rows.shape == (len(terms), len(TERM_FEATURES))
    assert np.isfinite(rows).all()
    best = rows[:, TERM_FEATURES.index("score_max")]
    assert terms[int(np.argmax(best))].lines == [2]
