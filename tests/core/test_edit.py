"""Where a term goes in a question."""

from __future__ import annotations

import pytest

from core.edit import place
from core.grounding import check


@pytest.mark.parametrize(
    ("question", "term", "rewrite"),
    [
        ("它能标旋转框不", "X-AnyLabeling", "X-AnyLabeling能标旋转框不"),
        ("@老周 它支持竖排的文字吗", "RapidOCR", "@老周 RapidOCR支持竖排的文字吗"),
        ("那个模型能换成自己训的吗", "esp-dl", "esp-dl的模型能换成自己训的吗"),
        ("这个插件收费吗", "剪贴板插件", "剪贴板插件收费吗"),
        ("并发一上来就卡住不动了", "vllm", "vllm并发一上来就卡住不动了"),
        ("@石头 那默认值是多少", "reconnect", "@石头 那reconnect默认值是多少"),
        ("「老莱：只能用它家的库」\n它有arm版么", "zlgcan", "「老莱：只能用它家的库」\nzlgcan有arm版么"),
        ("[流泪] 升级要停机吗", "airflow 3", "[流泪] airflow 3升级要停机吗"),
        ("后者要 scale 吧", "e4m3", "e4m3要 scale 吧"),
        ("does it need a gpu?", "mmpose", "does mmpose need a gpu?"),
        ("what is its license", "ten-vad", "what is ten-vad's license"),
        ("is that card passively cooled", "RTX A310", "is RTX A310 card passively cooled"),
        ("still at 6 gb btw", "next 15.2", "next 15.2: still at 6 gb btw"),
    ],
)
def test_a_term_takes_the_place_of_what_refers_or_goes_to_the_front(question: str, term: str, rewrite: str) -> None:
    assert place(question, term) == rewrite


@pytest.mark.parametrize("question", ["它快吗", "怎么装", "does it work", "", "那个呢", "@张三", "这"])
def test_placing_loses_and_invents_nothing(question: str) -> None:
    found = check(question, place(question, "RapidOCR"), [question, "RapidOCR"])
    assert found.invented == ()
    assert found.lost == ()
