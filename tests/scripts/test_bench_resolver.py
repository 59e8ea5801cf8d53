"""The benchmark of the resolver's parts, with what ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.gates.factory import SHIPPED
from scripts.bench import app

MESSAGES = [("张三", "mmpose 支持移动端部署么？"), ("王五", "支持的，看文档"), ("李四", "怎么把它部署到 TX2？"), ("张三", "ncnn 能跑么")]
QUESTIONS = [
    {"indices": [2], "label": "yes", "gold": "怎么把 mmpose 部署到 TX2？", "kind": "pronoun"},
    {"indices": [3], "label": "no", "gold": None, "kind": "self_contained_short"},
]


@pytest.mark.model
@pytest.mark.skipif(not (SHIPPED / "resolver" / "reader.gguf").exists(), reason="no reader is shipped")
def test_each_part_is_timed_on_the_questions_that_need_one(tmp_path: Path) -> None:
    data, figures = tmp_path / "windows.jsonl", tmp_path / "figures.json"
    messages = [{"sender": sender, "text": text, "at": f"2026-03-02T09:00:{10 * index:02d}+08:00"} for index, (sender, text) in enumerate(MESSAGES)]
    data.write_text(json.dumps({"id": "a-001", "lang": "zh", "topic": "", "messages": messages, "questions": QUESTIONS}) + "\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["resolver", str(data), "--limit", "2", "--json", str(figures)])
    assert result.exit_code == 0, result.output
    parts = json.loads(figures.read_text(encoding="utf-8"))["resolver"]
    assert {"trees", "trees and reader"} <= set(parts)
    assert all(part["questions"] == 1 and part["mean_ms"] > 0 for part in parts.values())
    assert parts["trees"]["over_trees"] == 1.0
    assert parts["trees and reader"]["over_trees"] > 1.0
