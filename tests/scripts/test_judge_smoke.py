"""The judge of candidates and the ranker beside it, trained small on the packaged model (``make train-smoke``): continued, calibrated, and loaded as by the resolver."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.ranker import AntecedentRanker
from tests.scripts.few_windows import ROOT, few_windows

pytestmark = pytest.mark.train


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_small_judge_is_trained_from_the_shipped_one_and_calibrated_with_the_ranker(tmp_path: Path) -> None:
    data, out, ranker = str(few_windows(tmp_path / "few.jsonl", 6)), tmp_path / "judge", tmp_path / "resolver"
    shipped = str(ROOT / "core" / "shipped" / "resolver" / "judge.gguf")
    run("scripts.training.judge", data, "--out", str(out), "--init-adapter", shipped, "--max-steps", "3", "--most", "40", "--lr", "1e-4")
    assert len(read(out / "checkpoint" / "state.json")["losses"]) == 3
    run("scripts.training.judge", data, "--out", str(out), "--init-adapter", shipped, "--max-steps", "4", "--most", "40", "--lr", "1e-4")
    assert len(read(out / "checkpoint" / "state.json")["losses"]) == 4, "continued, not begun anew"
    held = read(out / "metrics.json")["held"]
    assert held["judge"] > 2 / 12, "better than a guess among the shortlist"
    margins = read(out / "said.json")
    assert margins
    assert all(0 < len(answer) <= 12 for answer in margins.values())
    run("scripts.training.ranker", data, "--judge", str(out), "--out", str(ranker))
    loaded = AntecedentRanker.load(ranker)
    assert loaded.combinations[("judge",)].weights[1] > 0, "the judge is worth listening to"
    assert (ranker / "judge.gguf").stat().st_size == (out / "adapter.gguf").stat().st_size
    command = [sys.executable, "-m", "scripts.training.ranker", data, "--judge", str(out), "--seed", "9", "--out", str(ranker)]
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 2
    assert "other shortlists" in other.stderr
