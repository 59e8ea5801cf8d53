"""What a rewrite may add and drop."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from core.grounding import check, refusal
from core.messages import ContextLine, ConversationKey, Question, RefusalReason

CONTEXT = ["昨天把票据用RapidOCR跑了一遍", "我这边 tesseract 5.3 放弃了", "use mmpose 1.3 on the TX2"]


def question(text: str, *, glossary: tuple[str, ...] = ()) -> Question:
    lines = tuple(ContextLine("老周", text) for text in CONTEXT)
    return Question("q", ConversationKey("test", "g"), "阿楠", text, datetime(2026, 3, 2, tzinfo=UTC), lines, glossary=glossary)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("它支持竖排吗", "RapidOCR支持竖排吗"),
        ("这个插件要钱吗", "RapidOCR要钱吗"),
        ("并发怎么调", "票据并发怎么调"),
        ("后者要 scale 吧", "tesseract 要 scale 吧"),
        ("how do I deploy it?", "how do I deploy mmpose 1.3?"),
        ("「老周：昨天把票据」它快吗", "RapidOCR快吗"),
    ],
)
def test_words_of_the_conversation_may_replace_what_refers(before: str, after: str) -> None:
    found = check(before, after, [before, *CONTEXT])
    assert found.invented == ()
    assert found.lost == ()


@pytest.mark.parametrize(
    ("before", "after", "invented"),
    [
        ("它支持竖排吗", "PaddleOCR支持竖排吗", ("paddleocr",)),
        ("how do I deploy it?", "how do I deploy mmpose 1.4?", ("1.4",)),
        ("它支持竖排吗", "飞桨支持竖排吗", ("飞", "桨")),
        ("它快吗", "Rapid快吗", ("rapid",)),
    ],
)
def test_words_that_stand_nowhere_are_invented(before: str, after: str, invented: tuple[str, ...]) -> None:
    assert check(before, after, [before, *CONTEXT]).invented == invented


def test_a_word_of_the_question_may_not_get_lost() -> None:
    assert check("它支持竖排的文字吗", "RapidOCR支持文字吗", CONTEXT).lost == ("竖", "排")
    assert check("can it run yolov8 on the TX2", "can mmpose run on the TX2", CONTEXT).lost == ("yolov8",)


def test_what_a_quotation_says_as_well_may_not_get_lost_behind_it() -> None:
    asked = "「老周：use mmpose 1.3」 mmpose 支持竖排吗"
    assert check(asked, "tesseract 支持竖排吗", [asked, *CONTEXT]).lost == ("mmpose",)
    assert check("那个模型比我的模型快吗", "RapidOCR比我的快吗", CONTEXT).lost == ("模", "型")


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        ("那个项目的负责人是谁", "RapidOCR的负责人是谁", ()),
        ("那个项目的负责人是谁", "RapidOCR是谁", ("负", "责", "人")),
        ("那个黑色的是什么", "RapidOCR是什么", ()),
        ("那个人是谁", "老李是谁", ()),
        ("那个人脸模型是谁的", "RapidOCR是谁的", ()),
        ("你那篇代码放了没", "RapidOCR代码放了没", ()),
    ],
)
def test_whose_it_is_may_be_replaced_and_not_what_it_is(before: str, after: str, lost: tuple[str, ...]) -> None:
    assert check(before, after, CONTEXT).lost == lost


@pytest.mark.parametrize("candidate", ["它支持竖排吗？RapidOCR支持竖排吗？", "RapidOCR支持竖排吗 RapidOCR支持竖排吗"])
def test_a_question_may_not_be_said_all_over_again(candidate: str) -> None:
    assert refusal(question("它支持竖排吗"), candidate, 0.9, 0.5)[0] is RefusalReason.LOST_WORDS


@pytest.mark.parametrize(
    ("candidate", "confidence", "reason"),
    [
        ("RapidOCR支持竖排吗", 0.9, None),
        ("RapidOCR支持竖排吗", 0.3, RefusalReason.UNSURE),
        ("它 支持竖排吗", 0.9, RefusalReason.UNCHANGED),
        ("EasyOCR支持竖排吗", 0.9, RefusalReason.INVENTED),
        ("RapidOCR支持吗", 0.9, RefusalReason.LOST_WORDS),
        ("", 0.9, RefusalReason.NO_CANDIDATE),
        (None, 0.9, RefusalReason.NO_CANDIDATE),
    ],
)
def test_acceptance_names_its_reason(candidate: str | None, confidence: float, reason: RefusalReason | None) -> None:
    assert refusal(question("它支持竖排吗"), candidate, confidence, 0.5)[0] is reason


def said(*lines: str) -> tuple[ContextLine, ...]:
    return tuple(ContextLine("老周", line) for line in lines)


def judged(text: str, candidate: str, *lines: str) -> RefusalReason | None:
    asked = Question("q", ConversationKey("test", "g"), "阿楠", text, datetime(2026, 3, 2, tzinfo=UTC), said(*lines))
    return refusal(asked, candidate, 0.9, 0.5)[0]


@pytest.mark.parametrize(
    ("text", "candidate", "line", "reason"),
    [
        ("这不支持中文吗", "RapidOCR 支持中文吗", "RapidOCR 好用", RefusalReason.LOST_WORDS),
        ("does this not work on mac?", "does docker work on mac?", "docker", RefusalReason.LOST_WORDS),
        ("它能用吗", "docker 不能用吗", "docker 不错", RefusalReason.INVENTED),
        ("can it run?", "can't docker run?", "docker is great, don't worry", RefusalReason.INVENTED),
        # nor when a line says the name and the no in one breath
        ("它支持中文吗", "docker不支持中文吗", "docker不支持 AVX", RefusalReason.INVENTED),
        ("它什么时候发布", "飞桨没什么时候发布", "飞桨没动静", RefusalReason.INVENTED),
        ("它支持中文吗", "不锈钢表圈支持中文吗", "不锈钢表圈缺货", None),
        ("有哪些支持中文的", "飞桨特别版有哪些支持中文的", "飞桨特别版", None),
        ("这不支持中文吗", "RapidOCR不支持中文吗", "RapidOCR", None),
        ("它多少钱", "不锈钢表圈多少钱", "不锈钢表圈缺货", None),
        ("那个特别版插件要钱吗", "RapidOCR要钱吗", "RapidOCR", None),
        ("does it train", "does lora without regret train", "read lora without regret", None),
    ],
)
def test_a_no_is_neither_dropped_nor_added(text: str, candidate: str, line: str, reason: RefusalReason | None) -> None:
    assert judged(text, candidate, line) is reason


@pytest.mark.parametrize(
    ("text", "candidate"),
    [
        ("它能不能商用", "豆解不能商用"),
        ("它是不是收费", "豆解不是收费"),
        ("它有没有文档", "豆解没有文档"),
        ("它只支持 linux 吗", "豆解支持 linux 吗"),
        ("那只支持 linux 吗", "豆解支持 linux 吗"),
        ("装之前要卸载它吗", "装之后要卸载豆解吗"),
        ("它要放前面吗", "豆解要放后面吗"),
        ("when does it start", "does 豆解 start"),
        ("which port is it", "is 豆解 port"),
        ("哪个支持离线", "豆解支持离线"),
        ("用它还是 milvus", "用豆解和 milvus"),
        ("docker or it?", "docker and 豆解?"),
        ("can I convert it to onnx", "can I convert 豆解 from onnx"),
        ("那哪家好用", "豆解好用"),
    ],
)
def test_what_is_asked_is_not_turned_round(text: str, candidate: str) -> None:
    assert judged(text, candidate, "豆解 之后再说，放后面") is RefusalReason.LOST_WORDS


@pytest.mark.parametrize("text", ["「老周：能不能不用它」 它快吗", "那只快吗", "之前那个快吗", "上面那个快吗"])
def test_what_is_quoted_or_refers_may_go(text: str) -> None:
    assert judged(text, "豆解快吗", "豆解") is None


@pytest.mark.parametrize(
    ("text", "candidate", "reason"),
    [("他们收费怎么算", "cohere收费怎么算", None), ("她俩合得来吗", "cohere合得来吗", None), ("我们收费怎么算", "cohere我收费怎么算", RefusalReason.LOST_WORDS)],
)
def test_they_may_be_replaced_and_we_may_not(text: str, candidate: str, reason: RefusalReason | None) -> None:
    assert judged(text, candidate, "cohere 不便宜") is reason


@pytest.mark.parametrize("candidate", ["它支持吗？", "这个支持吗。", "它 也 支持吗"])
def test_a_rewrite_that_names_nothing_new_resolves_nothing(candidate: str) -> None:
    assert judged("它支持吗", candidate, "RapidOCR") is RefusalReason.UNCHANGED


@pytest.mark.parametrize(
    ("candidate", "line"),
    [
        ("YOLO 2.0支持吗", "YOLO 1.2.0 出了"),
        ("python 3.1支持吗", "python 3.1.4 和 python 3.10"),
        ("C支持吗", "C++ 的版本"),
        ("ロボット支持吗", "机器人"),
        ("Москва支持吗", "机器人"),
    ],
)
def test_a_part_of_a_number_or_name_and_another_script_are_invented(candidate: str, line: str) -> None:
    assert judged("它支持吗", candidate, line) is RefusalReason.INVENTED


def test_other_scripts_may_be_quoted() -> None:
    assert judged("它支持吗", "ロボット支持吗", "买了ロボット") is None


@pytest.mark.parametrize(
    ("text", "candidate"),
    [("它上线了吗", "豆解下线了吗"), ("升级前它能用吗", "升级后豆解能用吗"), ("从 mysql 迁到 pg 它行吗", "从 pg 迁到 mysql 豆解行吗"), ("这个支持竖排的文字吗", "豆解支持吗")],
)
def test_words_of_the_question_keep_their_places(text: str, candidate: str) -> None:
    assert judged(text, candidate, "豆解") is RefusalReason.LOST_WORDS


def test_the_glossary_of_the_group_counts_as_said() -> None:
    assert refusal(question("它支持竖排吗", glossary=("PaddleOCR",)), "PaddleOCR支持竖排吗", 0.9, 0.5)[0] is None
