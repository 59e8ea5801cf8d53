"""The editor of short dialogues, trained small (``make train-smoke``): two models averaged, and measured on what it kept aside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.dialogue_editor import DialogueEditor
from tests.core.test_dialogue_editor import ASKED
from tests.scripts.few_windows import ROOT

pytestmark = pytest.mark.train


def trained(out: Path, data: Path, *more: str) -> Any:
    command = [sys.executable, "-m", "scripts.training.dialogue_editor", str(data), "--out", str(out), "--max-steps", "40", "--models", "2", "--validation", "0.2", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def test_a_small_editor_is_trained_and_a_finished_one_is_not_trained_again(tmp_path: Path) -> None:
    films, asked = ("流浪地球", "红海行动", "我和我的祖国", "白夜行", "无双"), ("是谁演的", "好看吗", "什么时候上映", "票房多少", "导演是谁", "有几部", "讲的什么", "在哪看")
    records = [
        {"id": f"{film}{question}", "context": [{"sender": "A", "text": f"你看过{film}吗"}, {"sender": "B", "text": "看过的"}], "sender": "A", "question": question}
        | {"needs_resolution": True, "rewrite": f"{film}{question}"}
        for film in films
        for question in asked
    ]
    data, out = tmp_path / "pairs.jsonl", tmp_path / "editor"
    data.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    figures = trained(out, data)
    assert figures["kept_aside"]["exact"] > 0.5, "questions that it did not see, of films that it saw"
    assert [run["loss_last"] < 3.0 for run in figures["runs"]] == [True, True]
    assert DialogueEditor.load(out / "editor.npz").edits(ASKED, 1)[0].text == "流浪地球是谁演的"
    assert trained(out, data) == figures, "both models were there already"
