"""Which of two alternatives a question means, and where a term stands among alternatives."""

from __future__ import annotations

import pytest

from core.antecedent_features import TERM_FEATURES, Scene, line_features, place_asked_for, place_in_pair, term_features, terms_of
from core.messages import ContextLine


@pytest.mark.parametrize(
    ("text", "term", "place"),
    [
        ("axum 和 actix-web 现在哪个好", "axum", 1),
        ("axum 和 actix-web 现在哪个好", "actix-web", 2),
        ("webdataset、MDS、tfrecord选谁", "MDS", 3),
        ("Jetson Orin or RK3588?", "RK3588", 2),
        ("用 mysql 吧", "mysql", 0),
        ("vector for rust", "vector", 0),
    ],
)
def test_alternatives_know_their_place(text: str, term: str, place: int) -> None:
    start = text.index(term)
    assert place_in_pair(text, start, start + len(term)) == place


@pytest.mark.parametrize(
    ("question", "place"),
    [
        ("后者免费？", 2),
        ("前一个会不会影响别的", 1),
        ("the latter on CPU, fast enough?", 2),
        ("前者要改吧，后者是服务端配的？", 0),
        ("它免费吗", 0),
        ("is the first one faster?", 1),
    ],
)
def test_a_question_may_say_which_of_two(question: str, place: int) -> None:
    assert place_asked_for(question) == place


def test_a_term_at_the_place_that_is_asked_for_is_told_from_the_other() -> None:
    lines = (ContextLine("阿杰", "部署用 ncnn 还是 TensorRT"), ContextLine("柚子", "看平台，TensorRT 只能 N 卡"))
    scene = Scene.of("后者要钱吗", "阿杰", lines)
    terms, features = terms_of(scene), line_features(scene)
    rows = term_features(scene, terms, features, features[:, 0], lambda text: 1.0)
    asked, named = (TERM_FEATURES.index(name) for name in ("place_asked_for", "option_named_later"))
    by_name = {term.text: row for term, row in zip(terms, rows, strict=True)}
    assert (by_name["ncnn"][asked], by_name["TensorRT"][asked]) == (-1, 1)
    assert (by_name["ncnn"][named], by_name["TensorRT"][named]) == (0, 1)


def test_a_term_of_the_quotation_alone_is_described_where_it_stands() -> None:
    lines = (ContextLine("阿杰", "谁有测试机"), ContextLine("柚子", "晚上开会吗还是明天再说，我都行的"))
    scene = Scene.of("「小鹿：部署用 ncnn 还是 TensorRT」\n- - - - - - - - - - - - - - -\n后者要钱吗", "阿杰", lines)
    terms, features = terms_of(scene), line_features(scene)
    rows = term_features(scene, terms, features, features[:, 0], lambda text: 1.0)
    place = TERM_FEATURES.index("place_in_pair")
    by_name = {term.text: row for term, row in zip(terms, rows, strict=True)}
    assert (by_name["ncnn"][place], by_name["TensorRT"][place]) == (1, 2)
