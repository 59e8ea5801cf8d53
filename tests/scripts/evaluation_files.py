"""Small labelled files of every form, and models that answer by rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.grounding import refusal
from core.messages import Question, Resolution, Verdict

GATE = [
    {"id": "1", "lang": "zh", "context": [{"sender": "A", "text": "mmpose 支持移动端部署么"}], "sender": "B", "question": "怎么把它部署到 TX2？", "label": "yes"},
    {"id": "2", "lang": "zh", "context": [], "sender": "A", "question": "mmdeploy 支持 TX2 吗", "label": "no"},
    {"id": "3", "lang": "zh", "context": [{"sender": "A", "text": "x"}], "sender": "A", "question": "它很香", "label": "not_question"},
    {"id": "4", "lang": "en", "context": [{"sender": "A", "text": "ncnn is out"}], "sender": "B", "question": "does it run on arm?", "label": "yes"},
    {"id": "5", "lang": "en", "context": [], "sender": "A", "question": "is this build of ncnn broken?", "label": "no"},
]
REWRITE = [
    {
        "id": "1",
        "lang": "zh",
        "context": [{"sender": "A", "text": "mmpose 支持移动端么"}],
        "sender": "B",
        "question": "怎么把它部署到TX2",
        "needs_resolution": True,
        "rewrite": "怎么把 mmpose 部署到TX2",
    },
    {"id": "2", "lang": "en", "context": [{"sender": "A", "text": "ncnn"}], "sender": "B", "question": "does it run?", "needs_resolution": True, "rewrite": "Does NCNN  run?"},
]
WINDOW = {
    "id": "w1",
    "lang": "zh",
    "topic": "部署",
    "messages": [
        {"sender": "张三", "text": "我在看 mmpose", "at": "2026-03-02T09:00:00+08:00"},
        {"sender": "老周", "text": "午饭吃什么都行 tesseract 别提了", "at": "2026-03-02T09:00:20+08:00"},
        {"sender": "李四", "text": "搭车问一下", "at": "2026-03-02T09:01:00+08:00"},
        {"sender": "李四", "text": "怎么把它部署到 TX2？", "at": "2026-03-02T09:01:04+08:00"},
        {"sender": "王五", "text": "那个能商用吗", "at": "2026-03-02T09:20:00+08:00"},
        {"sender": "赵六", "text": "ncnn 支持 int8 量化吗", "at": "2026-03-02T09:40:00+08:00"},
        {"sender": "张三", "text": "早", "at": "2026-03-02T09:59:00+08:00"},
    ],
    "questions": [
        {
            "indices": [2, 3],
            "label": "yes",
            "gold": "怎么把 mmpose 部署到 TX2？",
            "kind": "split",
            "must_contain": ["MMPose"],
            "must_not_contain": ["tesseract"],
            "difficulty": "easy",
        },
        {"indices": [4], "label": "yes", "gold": None, "kind": "unresolvable"},
        {"indices": [5], "label": "no", "gold": None, "kind": "self_contained_short", "must_not_contain": ["mmpose"]},
        {"indices": [6], "label": "yes", "gold": "mmpose 早", "kind": "ellipsis"},
    ],
}
QUESTIONS = [
    {"text": "怎么装？", "is_question": True},
    {"text": "好的", "is_question": False},
    {"text": "在吗", "is_question": True},
    {"text": "谁知道呢 随便什么", "is_question": False},
]
MERGE = [
    {"prev": "can anyone help", "cur": "with grub", "gap_s": 5, "gap_resolution_s": 1, "others_between": 0, "same_utterance": True},
    {"prev": "does it work?", "cur": "and another thing", "gap_s": 3000, "gap_resolution_s": 1, "others_between": 4, "same_utterance": False},
    {"prev": "thanks", "cur": "bob: try sudo", "gap_s": 60, "gap_resolution_s": 60, "others_between": 0, "same_utterance": False},
]
CHANNEL = {
    "file": "dev/one",
    "channel": "ubuntu",
    "first_annotated": 2,
    "messages": [
        ["23:58", "amy", "how do i mount an iso"],
        ["", None, "=== joe has joined"],
        ["23:59", "joe", "hello all"],
        ["00:01", "bob", "amy: mount -o loop file.iso"],
        ["00:02", "amy", "bob: thanks"],
    ],
    "links": [[2, 2], [0, 3], [3, 4], [0, 1]],
}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records), encoding="utf-8")
    return path


@dataclass
class RuleGate:
    """Needs resolution when there is a pronoun."""

    batches: list[int] = field(default_factory=list)

    async def judge(self, questions: Sequence[Question]) -> list[Verdict]:
        self.batches.append(len(questions))
        return [Verdict(0.9 if any(word in q.text for word in ("它", "那个", "it ")) else 0.2, 0.5, "rule", "v1") for q in questions]

    async def close(self) -> None: ...


@dataclass
class RuleResolver:
    """Puts ``term`` for the pronoun. ``confidence`` under 0.5 is refused."""

    term: str = "mmpose"
    confidence: float = 0.8

    async def resolve(self, question: Question) -> Resolution:
        candidate = question.text.replace("它", f" {self.term} ").replace("那个", f" {self.term} ").replace("it ", f"{self.term} ")
        reason, found = refusal(question, candidate, self.confidence, 0.5)
        return Resolution(candidate, None if reason else candidate, self.confidence, "rule", "v1", reason, invented=found.invented)

    async def close(self) -> None: ...


@dataclass
class RuleModels:
    gate: RuleGate | None = field(default_factory=RuleGate)
    resolver: RuleResolver | None = field(default_factory=RuleResolver)
