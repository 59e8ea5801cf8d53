"""A small real training on the packaged model (``make train-smoke``, two to three minutes): killed in the middle, continued, converted, and asked by both back ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import pytest

from tests.scripts.few_windows import ROOT, few_windows

pytestmark = pytest.mark.train

QUESTIONS = ("它支持移动端部署么？", "大佬们，请问如何安装mmcv?", "那这个呢", "rknn的int8量化掉点怎么办", "Does it support windows?", "所以咋改")


def command(data: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "scripts.train", str(data), "--preset", "smoke", "--out", str(out)]


def steps(out: Path) -> list[dict[str, float]]:
    path = out / "tracking" / "run.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def kill_at(step: int, data: Path, out: Path) -> None:
    running = subprocess.Popen(command(data, out), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(steps(out)) < step:
        assert running.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline, "no step in five minutes"
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()


def test_training_survives_a_kill_learns_and_serves_from_gguf(tmp_path: Path) -> None:
    data, out = few_windows(tmp_path / "few.jsonl"), tmp_path / "out"
    kill_at(14, data, out)
    done = subprocess.run(command(data, out), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [step["loss"] for step in steps(out)]
    assert [int(step["step"]) for step in steps(out)] == list(range(1, len(losses) + 1)), "every step once"
    assert fmean(losses[-6:]) < fmean(losses[:6])
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["validation_loss"]["after"] < metrics["validation_loss"]["before"]
    assert "SHA-256" in (out / "README.md").read_text(encoding="utf-8")
    trained, served, bare = by_transformers(out), by_llama_cpp(out / "adapter.gguf"), by_llama_cpp(None)
    assert max(abs(a - b) for a, b in zip(trained, served, strict=True)) < 1.5, "quantisation alone moves logits by up to 1.4"
    assert fmean(abs(a - b) for a, b in zip(trained, served, strict=True)) < 0.3 * fmean(abs(a - b) for a, b in zip(trained, bare, strict=True))
    other = subprocess.run([*command(data, out), "--rank", "4"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert other.returncode == 2
    assert "other settings or data" in other.stderr


def by_transformers(out: Path) -> list[float]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from scripts.training.base import load_base
    from scripts.training.data import Sample
    from scripts.training.gate_task import GateTask
    from scripts.training.run import margins

    base = load_base("")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base.folder)), str(out / "adapter"))
    samples = [Sample(text, text, "", (), "yes", None, "g", "f") for text in QUESTIONS]
    return margins(model, GateTask(samples, base.encode, base.start, "gate-1", 1).epoch(0), base.pad, "cpu")


def by_llama_cpp(adapter: Path | None) -> list[float]:
    from scripts.training.data import Sample
    from scripts.training.fit_gate import lm_logits

    return lm_logits([Sample(text, text, "", (), "yes", None, "g", "f") for text in QUESTIONS], None, adapter, "gate-1")
