"""Synthetic load: many chats whose members talk, ask and split sentences, the same for the same seed."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from core.messages import Message

_START = datetime(2026, 3, 2, 1, 0, tzinfo=UTC)
_SAID = (
    "我这边用的是 {tool}，装起来挺顺",
    "{tool} 新版本把 int8 修好了",
    "[图片]",
    "哈哈哈",
    "谢谢大佬",
    "收到",
    "昨晚跑了一夜 {tool}，显存没爆",
    "ok",
    "{tool} 的文档写得真不行",
    "👍",
    "we moved to {tool} last month, no regrets",
    "先吃饭",
    "这个报错我也见过",
    "把日志贴一下",
)
_ASKED = (
    "{tool} 支持动态 shape 吗",
    "它能在板子上跑么？",
    "这个怎么装",
    "有人试过 {tool} 的量化么",
    "为啥我这边这么慢",
    "does it support int8?",
    "那 batch 设多少合适",
    "how do I install {tool} offline?",
)
_TOOLS = ("ncnn", "TensorRT", "OpenVINO", "MNN", "rknn", "vLLM", "SGLang", "llama.cpp", "mmpose", "PaddleOCR")


def chat_load(count: int, chats: int = 24, members: int = 40, seed: int = 1) -> list[Message]:
    """``count`` messages of ``chats`` groups in order of time; about a fifth of them ask something."""
    dice = random.Random(seed)
    clocks = [_START + timedelta(seconds=dice.randrange(60)) for _ in range(chats)]
    made = []
    for number in range(count):
        chat = dice.randrange(chats)
        clocks[chat] += timedelta(seconds=dice.expovariate(1 / 20))
        member = f"m{dice.randrange(members)}"
        text = dice.choice(_ASKED if dice.random() < 0.2 else _SAID).format(tool=dice.choice(_TOOLS))
        made.append(Message("bench", f"chat{chat}", str(number), member, text, clocks[chat], chat_name=f"chat {chat}", sender_name=member))
    return made
