"""bots.console as a user runs it: lines in, what the bot makes of them out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def converse(lines: str, *arguments: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DOUJIE_GATE__BACKEND": "none", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "bots.console", *arguments]
    return subprocess.run(command, input=lines, cwd=ROOT, env=environment, capture_output=True, encoding=encoding, timeout=60, check=False)


def test_half_sentences_are_merged_and_the_rule_is_named() -> None:
    done = converse("张三> mmpose 支持移动端部署么？\n李四> 搭车问一下\n怎么把它部署到 TX2？\n\n张三> 好的\n")
    assert done.returncode == 0, done.stderr
    assert "question of 张三" in done.stdout
    assert "merged 2 messages of 李四" in done.stdout
    assert "搭车问一下 怎么把它部署到 TX2？" in done.stdout
    assert "zh_" in done.stdout or "question_mark" in done.stdout
    assert done.stdout.count("question of") == 2


def test_another_encoding_is_one_line_and_not_waited_for() -> None:
    done = converse("张三> 怎么部署？\n", encoding="gb18030")
    assert done.returncode == 2
    assert "standard input: is not utf-8 text" in " ".join(done.stderr.split())


def test_a_config_that_is_wrong_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.ini"
    path.write_text("[merge]\nwindow_seconds = soon\n", encoding="utf-8")
    done = converse("", "--config", str(path))
    assert done.returncode == 2
    assert "[merge] window_seconds" in " ".join(done.stderr.split())
