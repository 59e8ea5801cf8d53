"""The reader, trained small on the packaged model (``make train-smoke``): continued after a kill, measured as it serves, and loaded beside the ranker."""

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

SHIPPED = ROOT / "core" / "shipped" / "resolver"


def run(module: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def losses(out: Path) -> list[float]:
    found: list[float] = read(out / "checkpoint" / "state.json")["losses"]
    return found


def test_a_small_reader_is_trained_from_the_shipped_one_and_calibrated_with_the_ranker(tmp_path: Path) -> None:
    data, out, ranker = str(few_windows(tmp_path / "few.jsonl", 6)), tmp_path / "reader", tmp_path / "resolver"
    settings = ["--init", str(SHIPPED), "--most", "40", "--lr", "1e-4"]
    run("scripts.training.reader", data, "--out", str(out), *settings, "--max-steps", "2")
    run("scripts.training.reader", data, "--out", str(out), *settings, "--max-steps", "3")
    assert len(losses(out)) == 3, "continued, not begun anew"
    assert read(out / "metrics.json")["held"]["reader"] > 0.2, "better than a guess among forty"
    run("scripts.training.ranker", data, "--reader", str(out), "--out", str(ranker))
    loaded = AntecedentRanker.load(ranker)
    assert loaded.combinations[("reader",)].weights[1] > 0, "the reader is worth listening to"
    assert [(ranker / name).read_bytes() for name in ("reader.gguf", "reader.npz")] == [(out / name).read_bytes() for name in ("reader.gguf", "reader.npz")]


def test_a_reader_that_begins_anew_learns(tmp_path: Path) -> None:
    out = tmp_path / "reader"
    run("scripts.training.reader", str(few_windows(tmp_path / "few.jsonl", 6)), "--out", str(out), "--max-steps", "12", "--most", "8")
    assert np.mean(losses(out)[-4:]) < np.mean(losses(out)[:4])
