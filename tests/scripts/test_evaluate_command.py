"""The command: tables on stdout, JSON of the fixed shape, one clear line for an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scripts.evaluate import app
from tests.scripts.evaluation_files import CHANNEL, MERGE, QUESTIONS, REWRITE, write


def test_files_of_several_forms_in_one_run(tmp_path: Path) -> None:
    files = [write(tmp_path / "merge.jsonl", *MERGE), write(tmp_path / "threads.jsonl", CHANNEL), write(tmp_path / "questions.jsonl", *QUESTIONS)]
    out = tmp_path / "figures.json"
    run = CliRunner().invoke(app, [*map(str, files), "--json", str(out), "--limit", "2"])
    assert run.exit_code == 0, run.output
    assert "fixed 60 s" in run.stdout
    document = json.loads(out.read_text())
    assert [(entry["file"], entry["task"], entry["n"]) for entry in document["files"]] == [
        (str(files[0]), "merge", 2),
        (str(files[1]), "context", 2),
        (str(files[2]), "question", 2),
    ]
    assert {"precision", "recall", "f1"} <= document["files"][0]["metrics"].keys()
    assert {"recall_at_5", "recall_at_11"} <= document["files"][1]["metrics"].keys()


def test_only_the_tasks_that_are_asked_for(tmp_path: Path) -> None:
    files = [write(tmp_path / "merge.jsonl", *MERGE), write(tmp_path / "questions.jsonl", *QUESTIONS)]
    run = CliRunner().invoke(app, [*map(str, files), "--task", "question", "--json", str(tmp_path / "figures.json")])
    assert run.exit_code == 0, run.output
    assert [entry["task"] for entry in json.loads((tmp_path / "figures.json").read_text())["files"]] == ["question"]
    run = CliRunner().invoke(app, [*map(str, files), "--task", "gate"])
    assert run.exit_code == 2
    assert "These files measure: merge, question." in run.stderr


@pytest.mark.parametrize("arguments", [["{folder}/none.jsonl"], ["{folder}/merge.jsonl", "--config", "{folder}/none.ini"], ["{folder}/merge.jsonl", "--backend", "abacus"]])
def test_an_error_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    write(tmp_path / "merge.jsonl", *MERGE)
    run = CliRunner().invoke(app, [argument.format(folder=tmp_path) for argument in arguments])
    assert run.exit_code == 2
    assert len(run.stderr.strip().splitlines()) == 1


def test_no_back_end_cannot_measure_a_model(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, [str(write(tmp_path / "rewrite.jsonl", *REWRITE)), "--backend", "none"])
    assert run.exit_code == 2
    assert "[resolver] backend" in run.stderr


def test_figures_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, [str(write(tmp_path / "merge.jsonl", *MERGE)), "--json", str(tmp_path / "no" / "figures.json")])
    assert run.exit_code == 2
    assert "cannot be written" in run.stderr
