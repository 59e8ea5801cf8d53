from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InputError
from scripts.evaluation.forms import Form, read_file
from scripts.evaluation.run import jobs_of
from tests.scripts.evaluation_files import CHANNEL, GATE, MERGE, QUESTIONS, REWRITE, WINDOW, write


@pytest.mark.parametrize(
    ("record", "form"),
    [(GATE[0], Form.GATE), (REWRITE[0], Form.GATE), (WINDOW, Form.WINDOW), (QUESTIONS[0], Form.QUESTION), (MERGE[0], Form.MERGE), (CHANNEL, Form.CONTEXT)],
)
def test_the_form_is_recognised_from_the_fields(tmp_path: Path, record: object, form: Form) -> None:
    data = read_file(write(tmp_path / "data.jsonl", record))
    assert data.form is form
    assert len(data.records) == 1


def test_limit_reads_the_first_records_only(tmp_path: Path) -> None:
    assert len(read_file(write(tmp_path / "data.jsonl", *GATE, "not an object"), limit=2).records) == 2


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("", "holds no record"),
        ("{broken", "data.jsonl:1.*not JSON"),
        ('{"text": "x", "is_question": true}\n[1]', "data.jsonl:2.*not a JSON object"),
        ('{"text": "x", "is_question": true}\n{"text": 3, "is_question": true}', "data.jsonl:2.*text"),
        ('{"foo": 1}', "unknown form"),
        ('{"id":"w","messages":[{"sender":"a","text":"b","at":"2026-03-02T09:00:00Z"}],"questions":[{"indices":[4],"label":"yes"}]}', "indices"),
        ('{"id":"w","messages":[{"sender":"a","text":"b","at":"2026-03-02T09:00:00"}],"questions":[]}', "at: .*timezone"),
        ('{"context":[],"question":"x","label":"maybe"}', "label"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(tmp_path: Path, content: str, where: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=where):
        read_file(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_file(tmp_path / "none.jsonl")


def test_a_file_with_rewrites_measures_both_and_one_without_negatives_rewriting_alone(tmp_path: Path) -> None:
    alone = {**REWRITE[0], "needs_resolution": False}
    assert [job.task for job in jobs_of(read_file(write(tmp_path / "a.jsonl", *REWRITE, alone)))] == ["gate", "rewrite"]
    assert [job.task for job in jobs_of(read_file(write(tmp_path / "b.jsonl", *REWRITE)))] == ["rewrite"]
    assert [job.task for job in jobs_of(read_file(write(tmp_path / "c.jsonl", *GATE)))] == ["gate"]
    assert [job.task for job in jobs_of(read_file(write(tmp_path / "d.jsonl", {**REWRITE[0], "derived": True}, alone)))] == ["gate"]


def test_an_exported_line_is_measured_against_its_label_and_not_against_its_own_verdict(tmp_path: Path) -> None:
    exported = {
        "id": "q",
        "sender": "A",
        "question": "它呢",
        "context": [],
        "asked_at": "2026-03-01T00:00:00Z",
        "probability": 0.9,
        "needs_resolution": True,
        "rewrite": "x",
        "label": None,
    }
    (unlabelled, labelled) = read_file(write(tmp_path / "data.jsonl", exported, {**exported, "label": "no"})).records
    assert unlabelled.truth is None
    assert labelled.truth == "no"
    assert labelled.gold is None


@pytest.mark.parametrize("record", [{**GATE[0], "label": None}, {**GATE[0], "label": "not_question"}, {**WINDOW, "questions": []}])
def test_a_file_that_nobody_labelled_is_refused_instead_of_measured_as_0(tmp_path: Path, record: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"data\.jsonl: none of its 1 records"):
        jobs_of(read_file(write(tmp_path / "data.jsonl", record)))
