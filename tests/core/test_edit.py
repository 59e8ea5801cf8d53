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
        ("他们是按人头还是按项目", "ultralytics", "ultralytics是按人头还是按项目"),
        ("@老唐 他家收费怎么算的", "cohere", "@老唐 cohere收费怎么算的"),
        ("那她几号回", "老李", "那老李几号回"),
        ("他们那个是开源的？", "Pyronear", "Pyronear是开源的？"),
        ("他那个视频多长", "老李", "老李那个视频多长"),
        ("他妈的怎么装不上", "mmpose", "mmpose他妈的怎么装不上"),
        ("我同事装好了，他是不是得换版本", "mmpose", "mmpose我同事装好了，他是不是得换版本"),
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
        # a classifier is no half of a noun
        ("这项目怎么部署？", "PyTorch", "PyTorch的项目怎么部署？"),
        ("这版本支持 CUDA 12 吗", "PyTorch", "PyTorch的版本支持 CUDA 12 吗"),
        ("这项目有给玩的demo吗", "mmpose", "mmpose的项目有给玩的demo吗"),
        ("这组件怎么用", "PyTorch", "PyTorch的组件怎么用"),
        ("这张图怎么标", "labelme", "labelme图怎么标"),
        ("这个月能发布吗", "PyTorch", "PyTorch这个月能发布吗"),
        ("那些参数怎么调？", "PyTorch", "PyTorch的参数怎么调？"),
        # what begins like a connective is none
        ("那时候支持吗", "PyTorch", "PyTorch那时候支持吗"),
        ("那样内存得翻倍吧", "mmpose", "mmpose那样内存得翻倍吧"),
        ("还有没有可能泄漏啊", "mmpose", "mmpose还有没有可能泄漏啊"),
        ("还有多久发布", "PyTorch", "PyTorch还有多久发布"),
        ("好的显卡推荐吗", "京东", "京东好的显卡推荐吗"),
        ("那websocket支持么", "koa", "那koa websocket支持么"),
        # a pronoun is no part of another word, nor of a name
        ("有其它办法吗？", "mmpose", "mmpose有其它办法吗？"),
        ("其他家的也支持吗", "mmpose", "mmpose其他家的也支持吗"),
        ("@那个男人 怎么装？", "mmpose", "@那个男人 mmpose怎么装？"),
        ("@小豆，支持吗", "mmpose", "@小豆，mmpose支持吗"),
        ("who is the IT contact?", "mmpose", "mmpose: who is the IT contact?"),
        # what belongs to the one who is asked goes with it; a noun before says itself which one is meant
        ("@大萌 你那个图片输入多大", "jina", "@大萌 jina的图片输入多大"),
        ("你推荐的那款一行多少ms", "TrOCR", "TrOCR一行多少ms"),
        ("你那方案重叠的时候挂不挂", "smart turn", "smart turn的方案重叠的时候挂不挂"),
        ("没有snowflake那种高级货", "soda", "soda没有snowflake那种高级货"),
        ("身份证那个项目翻车了，这回呢", "车牌生成器", "车牌生成器身份证那个项目翻车了，这回呢"),
        # "that" joins clauses
        ("is there a version that works with python 3.12?", "mmpose", "mmpose: is there a version that works with python 3.12?"),
        ("I heard that python 3.13 is faster, does it work?", "mmpose", "I heard that python 3.13 is faster, does mmpose work?"),
        ("does that card fit?", "A310", "does A310 card fit?"),
        ("does it matter if that fails", "mmpose", "does it matter if mmpose fails"),
        ("will they support that?", "onnx", "will onnx support that?"),
    ],
)
def test_a_term_takes_the_place_of_what_refers_or_goes_to_the_front(question: str, term: str, rewrite: str) -> None:
    assert place(question, term) == rewrite


@pytest.mark.parametrize("question", ["它快吗", "怎么装", "does it work", "", "那个呢", "@张三", "这"])
def test_placing_loses_and_invents_nothing(question: str) -> None:
    found = check(question, place(question, "RapidOCR"), [question, "RapidOCR"])
    assert found.invented == ()
    assert found.lost == ()
