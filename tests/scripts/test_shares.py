"""Nested shares of training data."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.errors import InputError
from scripts.scaling_law.shares import parse_share, write_shares
from scripts.shares import app
from tests.scripts.evaluation_files import write


def questions_in(path: Path) -> set[str]:
    return {json.loads(line)["question"] for line in path.read_text(encoding="utf-8").splitlines()}


def test_each_share_holds_the_smaller_ones_and_another_run_gives_the_same(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", *[{"question": f"q{n}"} for n in range(80)])
    for out in ("one", "two"):
        result = CliRunner().invoke(app, [str(data), "--out", str(tmp_path / out)])
        assert result.exit_code == 0, result.output
    folders = [tmp_path / "one" / name / "d.jsonl" for name in ("1-8", "1-4", "1-2", "all")]
    found = [questions_in(path) for path in folders]
    assert [len(one) for one in found] == [10, 20, 40, 80]
    assert found[0] < found[1] < found[2] < found[3]
    assert folders[0].read_bytes() == (tmp_path / "two" / "1-8" / "d.jsonl").read_bytes()
    write_shares([data], [Fraction(1, 8)], tmp_path / "three", seed=2)
    assert questions_in(tmp_path / "three" / "1-8" / "d.jsonl") != found[0]


def test_a_json_list_becomes_lines_that_training_reads(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"question": "甲"}, {"question": "乙"}], ensure_ascii=False), encoding="utf-8")
    assert write_shares([tmp_path / "a.json"], [Fraction(1)], tmp_path / "out") == {"all": 2}
    assert questions_in(tmp_path / "out" / "all" / "a.jsonl") == {"甲", "乙"}


def test_a_line_break_of_unicode_inside_a_question_ends_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "甲\u2028乙"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert write_shares([tmp_path / "a.jsonl"], [Fraction(1)], tmp_path / "out") == {"all": 1}


def test_shares_as_people_write_them() -> None:
    assert [parse_share(text) for text in ("1/8", "0.25", "12.5%", " 1 ")] == [Fraction(1, 8), Fraction(1, 4), Fraction(1, 8), Fraction(1)]
    for text in ("x", "0", "2", "1/0", ""):
        with pytest.raises(InputError):
            parse_share(text)


@pytest.mark.parametrize("text", ["{", "", "[1,"])
def test_what_is_no_data_is_one_line_and_exit_code_2(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, [str(tmp_path / "bad.jsonl"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "bad.jsonl" in result.stderr


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    files = [write(tmp_path / "d.jsonl", {"question": "q"}), write(tmp_path / "x" / "d.jsonl", {"question": "q"})]
    with pytest.raises(InputError, match="two files"):
        write_shares(files, [Fraction(1)], tmp_path / "out")
