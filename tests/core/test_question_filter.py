"""Each rule with examples, and the promise that no text is too strange or too long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.question_filter import RULES, QuestionFilter

EXAMPLES: dict[str, list[str]] = {
    "only_placeholder": ["[图片][image]", "@小鹿同学 @夜航船", "[捂脸] 👍！"],
    "bare_link": ["https://example.org/a?b=c", "  http://docs.example.org/install?x  "],
    "command": ["/dj opt out", "/豆解 状态"],
    "zh_statement_with_question_word": ["我也不知道怎么弄的", "没什么，随便看看", "无论哪个版本都一样", "什么鬼！"],
    "question_mark": ["rk3588 能跑 yolov8 么？[图片]", "显存多大？ @麦子", "14 t/s on the nano?!"],
    "zh_final_particle": ["ncnn 支持 int8 吗", "那显存呢", "是默认值嘛。"],
    "zh_a_not_a": ["这卡够不够用", "支不支持动态 shape", "可不可以先剪枝"],
    "zh_choice": ["用 CVAT 还是 Label Studio", "先合并 LoRA，还是动态加载它们"],
    "zh_wh_word": ["怎么把 coco 导进去", "首 token 多久", "哪个分支能编译"],
    "zh_ends_in_negation": ["模型转好了没", "这样写可以不", "你们试过没有"],
    "zh_request": ["求推荐标注软件", "有人用过 lmdeploy 压测", "帮我看看这段日志"],
    "zh_guess": ["应该要改 onnx 吧", "batch 可以开大点吧。"],
    "en_inverted": ["does it support awq", "ok, is the kv cache preallocated"],
    "en_wh_word": ["how do I quantize the head", "hey, which branch builds on jetson"],
    "en_request": ["anyone tried the fp8 weights", "still looking for a benchmark script"],
    "en_tag": ["it drops the adapter doesn't it", "we merge the adapter or not"],
    "nothing_asked": ["掉点从 6 降到 1.2", "老老实实用 CVAT", "it preallocates the kv cache", "100 张有点少"],
    "too_short": ["？", "嗯", "!!! ..."],
}


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in EXAMPLES.items() for text in texts])
def test_the_named_rule_decides(rule: str, text: str) -> None:
    examined = QuestionFilter().examine(text)
    assert examined.rule == rule
    assert examined.is_question == next((known.keeps for known in RULES if known.name == rule), False)


def test_every_rule_has_at_least_two_examples() -> None:
    assert {rule.name for rule in RULES} <= set(EXAMPLES)
    assert all(len(texts) >= 2 for texts in EXAMPLES.values())


def test_a_question_mark_inside_a_link_asks_nothing() -> None:
    assert not QuestionFilter().examine("see https://example.org/a?b=c&d=e for the table").is_question


@pytest.mark.parametrize("answer", ["用 pip", "谢谢", "可以"])
def test_who_answers_a_question_that_is_quoted_asks_nothing(answer: str) -> None:
    assert not QuestionFilter().examine(f"「老周：能不能用 conda 装？」\n- - - - - -\n{answer}").is_question
    assert QuestionFilter().examine(f"「老周：{answer}」\n- - - - - -\n它怎么装").is_question


def test_the_bounds_are_those_that_were_set() -> None:
    assert QuestionFilter(min_chars=5).examine("行吗？？？？").rule == "too_short"
    assert QuestionFilter(min_chars=2).examine("行吗？？？？").is_question
    assert QuestionFilter(max_chars=9).examine("这个模型能转 ncnn 吗").rule == "too_long"
    assert QuestionFilter(max_chars=13).examine("这个模型能转 ncnn 吗").is_question


HOSTILE = ["啊", "@!", "[图片", "[图片]@", "是", "还是", "a ", "  ", "?@", "?=", "不", "吗", "well, ", "，", "[", "@[a]!"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_long_texts_are_fast(piece: str) -> None:
    paste = piece * (100_000 // len(piece)) + " x\u3000中"
    began = time.process_time()
    QuestionFilter().examine(paste)
    assert time.process_time() - began < 0.2
    began = time.process_time()
    QuestionFilter(max_chars=200_000).examine(paste)
    assert time.process_time() - began < 3


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=300))
def test_any_text_is_decided(text: str) -> None:
    first = QuestionFilter().examine(text)
    assert first == QuestionFilter().examine(text)
    assert first.rule
