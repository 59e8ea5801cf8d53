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
        ("他们俩合得来吗", "两个插件", "两个插件合得来吗"),
        ("他家里能装吗", "老李", "老李家里能装吗"),
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
        # times, words that begin like a demonstrative, and "then take it"
        ("这会儿服务器还能连上吗", "NAS", "NAS这会儿服务器还能连上吗"),
        ("这些天大家还能连上吗", "GitHub", "GitHub这些天大家还能连上吗"),
        ("这周末能修好吗？", "GitHub", "GitHub这周末能修好吗？"),
        ("这个周末能修好吗？", "GitHub", "GitHub这个周末能修好吗？"),
        ("does anyone use svn these days?", "git", "git: does anyone use svn these days?"),
        ("anyone else seeing timeouts this morning?", "GitHub", "GitHub: anyone else seeing timeouts this morning?"),
        ("那张量并行呢？", "vLLM", "那vLLM张量并行呢？"),
        ("那台式机能装吗", "fnOS", "那fnOS台式机能装吗"),
        ("吉它怎么调音", "雅马哈", "雅马哈吉它怎么调音"),
        ("那把它放到 /usr/local 下行吗？", "ncnn", "那把ncnn放到 /usr/local 下行吗？"),
        ("那只支持 CUDA 吗？", "ncnn", "那ncnn只支持 CUDA 吗？"),
        ("@大萌 你那把 HHKB 是无刻的么", "键盘", "@大萌 键盘 HHKB 是无刻的么"),
        # no word is said twice
        ("模型支持几个关键点？", "RTMPose 模型", "RTMPose 模型支持几个关键点？"),
        ("它的精度怎么样", "RTMPose 的精度", "RTMPose 的精度怎么样"),
        ("V3多少", "ST-Link V3", "ST-Link V3多少"),
        ("V3s 多少", "ST-Link V3", "ST-Link V3 V3s 多少"),
        ("anyone tried that model?", "rtmpose model", "anyone tried rtmpose model?"),
        # a Chinese name or quotation makes no Chinese question; a name is not all that was said
        ("@老周 is there a JST connector on that board?", "LilyGo T5", "@老周 is there a JST connector on LilyGo T5 board?"),
        ("「老周：用 ncnn 吧」 is that model fast?", "rtmpose", "「老周：用 ncnn 吧」 is rtmpose model fast?"),
        ("@老周它支持几个关键点？", "RTMPose", "@老周RTMPose支持几个关键点？"),
        ("@老周支持几个关键点？", "RTMPose", "@老周支持几个关键点？"),
        # a greeting goes first
        ("你好，请问支持 int8 吗？", "RTMPose", "你好，请问RTMPose支持 int8 吗？"),
        ("你好像没装驱动？", "RTMPose", "RTMPose你好像没装驱动？"),
        ("hi all, any docs?", "RTMPose", "hi all, RTMPose: any docs?"),
        # what is said of the thing is no noun that belongs to it
        ("这个收费吗", "cursor", "cursor收费吗"),
        ("这个是不是收费", "cursor", "cursor是不是收费"),
        ("那个怎么回事", "cursor", "cursor怎么回事"),
        ("这个能装上吗", "cursor", "cursor能装上吗"),
        ("那个能导出来吗", "cursor", "cursor能导出来吗"),
        ("这个太重了吧", "云台", "云台太重了吧"),
        ("那个后来修好没", "cursor", "cursor后来修好没"),
        ("这个能耗高吗", "云台", "云台的能耗高吗"),
        ("你那个国内能用吗", "cursor", "cursor国内能用吗"),
        ("有人用过这个软件吗", "cursor", "有人用过cursor的软件吗"),
        ("safari 认这个值吗", "credentialless", "safari 认credentialless的值吗"),
        # what is asked and thanked with goes first as well, as a whole
        ("请问一下支持 int8 吗", "mmpose", "请问一下mmpose支持 int8 吗"),
        ("我想请教下，显存要多大", "mmpose", "我想请教下，mmpose显存要多大"),
        ("还有个问题，要装驱动吗", "mmpose", "还有个问题，mmpose要装驱动吗"),
        ("谢谢大佬，那支持 int8 吗", "mmpose", "谢谢大佬，那mmpose支持 int8 吗"),
        ("哦 那 3.13 呢", "nuitka", "哦 那 nuitka 3.13 呢"),
        ("对 数据多大", "hagrid", "对 hagrid数据多大"),
        ("是 m key 还是 b+m", "hailo-8", "hailo-8是 m key 还是 b+m"),
        ("好用吗", "mmpose", "mmpose好用吗"),
        # "那" before a classifier is no connective
        ("那颗供电要 26V 是吧", "MA12070P", "MA12070P的供电要 26V 是吧"),
        ("那篇有中文版么", "yolo", "yolo有中文版么"),
        ("那家店在哪", "京东", "京东那家店在哪"),
        ("那根线多长", "hdmi", "hdmi那根线多长"),
        ("那本地能跑吗", "mmpose", "那mmpose本地能跑吗"),
        ("那断了怎么续", "mmpose", "那mmpose断了怎么续"),
        # behind a noun it says itself which one is meant, but not at the front, nor where it is theirs who are asked
        ("地图那种 canvas 页面它性能掉不掉", "wujie", "地图那种 canvas 页面wujie性能掉不掉"),
        ("要转成hermes那种吧", "toolace", "toolace要转成hermes那种吧"),
        ("客户那边还认吗", "centos 7", "centos 7客户那边还认吗"),
        ("那边网速怎么样", "新机房", "新机房网速怎么样"),
        ("阿桐你那个能级联两只么", "eMeet M0", "阿桐eMeet M0能级联两只么"),
        # but a number that counts is no name said twice
        ("15 天能到货吗", "iPhone 15", "iPhone 15 15 天能到货吗"),
        ("16 GB 够吗", "iPhone 16", "iPhone 16 16 GB 够吗"),
        ("3588 支持吗", "RK 3588", "RK 3588 支持吗"),
        # a Chinese pronoun among English words
        ("它 vs RTX 3060?", "A310", "A310 vs RTX 3060?"),
        ("does 它 support int8?", "mmpose", "does mmpose support int8?"),
        # nor behind a name or an example in quotation marks
        ("支持中文搜图吗，“下雪”这种", "chinese-clip", "chinese-clip支持中文搜图吗，“下雪”这种"),
        ("《白鹿》那个项目结束没", "豆解", "豆解《白鹿》那个项目结束没"),
        ("“蛋糕”你那个能认出来吗", "chinese-clip", "“蛋糕”chinese-clip能认出来吗"),
        # what the asker has is not what is asked about, unless the question begins with it and does not name it
        ("那我这台 2060 能跑吗", "qwen 1.5b", "那qwen 1.5b我这台 2060 能跑吗"),
        ("我那张RTX A310 够吗", "qwen 1.5b", "qwen 1.5b我那张RTX A310 够吗"),
        ("会不会变砖啊，我这台刚过七天无理由", "dho804", "dho804会不会变砖啊，我这台刚过七天无理由"),
        ("在我们那个板子上能跑吗", "yolov8", "yolov8在我们那个板子上能跑吗"),
        ("内存吃多少，我这是 8G 的", "qwen 1.5b", "qwen 1.5b内存吃多少，我这是 8G 的"),
        ("够用吗，我那张卡带得动它么", "qwen 1.5b", "够用吗，我那张卡带得动qwen 1.5b么"),
        ("我这个能限制包大小么", "verdaccio", "我verdaccio能限制包大小么"),
        # "thing" names nothing, and "both of them" goes as a whole
        ("这个东西多少钱", "树莓派", "树莓派多少钱"),
        ("那个人是谁", "老李", "老李是谁"),
        ("这件事怎么处理", "发票", "发票怎么处理"),
        ("那个人脸模型多大", "retinaface", "retinaface的人脸模型多大"),
        ("它们俩能一起用吗", "redis 和 milvus", "redis 和 milvus能一起用吗"),
        # where it was said goes with it, but not where it is
        ("后面这个是不是要双向喂数据", "dualpipe", "dualpipe是不是要双向喂数据"),
        ("刚刚那个脚本能定时吗", "reset.sh", "reset.sh的脚本能定时吗"),
        ("网线上面那个灯不亮怎么办", "ONU", "ONU网线上面那个灯不亮怎么办"),
        # a word of two characters is not torn
        ("那边缘端支持吗", "mmpose", "那mmpose边缘端支持吗"),
        ("那边框怎么改", "labelme", "那labelme边框怎么改"),
        ("那部分代码在哪", "attention", "attention那部分代码在哪"),
        ("这就行了？", "docker", "docker这就行了？"),
        # "that" behind a verb, and what is asked of it
        ("how do I turn that off for one dashboard", "question cache", "how do I turn question cache off for one dashboard"),
        ("is that a plugin or do I need a box?", "RNNoise", "is RNNoise a plugin or do I need a box?"),
        ("is it me or is github down", "copilot", "copilot: is it me or is github down"),
        ("what does it measure?", "XDM1041", "what does XDM1041 measure?"),
        ("does it mention the backup?", "DPIA", "does DPIA mention the backup?"),
        # nor its first word
        ("docker 怎么装", "docker compose", "docker compose 怎么装"),
        ("raw 的话还有检查么", "raw sql", "raw sql 的话还有检查么"),
        ("rawx 的话还有检查么", "raw sql", "raw sql rawx 的话还有检查么"),
        ("预留一个月多少", "预留实例", "预留实例一个月多少"),
    ],
)
def test_a_term_takes_the_place_of_what_refers_or_goes_to_the_front(question: str, term: str, rewrite: str) -> None:
    assert place(question, term) == rewrite


@pytest.mark.parametrize("question", ["它快吗", "怎么装", "does it work", "", "那个呢", "@张三", "这"])
def test_placing_loses_and_invents_nothing(question: str) -> None:
    found = check(question, place(question, "RapidOCR"), [question, "RapidOCR"])
    assert found.invented == ()
    assert found.lost == ()
