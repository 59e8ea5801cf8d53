"""What a user of the resolver's two trainers can get wrong: one line each, exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.few_windows import ROOT, few_windows


@pytest.mark.parametrize("module", ["scripts.training.judge", "scripts.training.ranker"])
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
