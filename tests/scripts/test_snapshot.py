"""Snapshots of the labels: what stands in them, what changed since the last, what must not be in them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from scripts.evaluation.forms import read_file
from scripts.snapshot import app
from scripts.training.data import load_samples
from storage.engine import Database, open_database
from storage.inbox import SqlInbox
from storage.labels import LabelValue, SqlLabels
from storage.members import SqlMembers
from storage.models import adjudications
from storage.questions import SqlQuestionLog
from tests.storage.samples import START, StillClock, ask, message, resolution, verdict

KEYS = [message(number).key for number in range(5)]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.ini"
    path.write_text(f"[storage]\nurl = sqlite:///{tmp_path / 'log.db'}\n")
    return path


def within(config: Path, work: Callable[[Database], Coroutine[Any, Any, Any]]) -> None:
    async def run() -> None:
        database = await open_database(f"sqlite:///{config.parent / 'log.db'}", now=StillClock())
        await work(database)
        await database.close()

    asyncio.run(run())


@pytest.fixture
def labelled(config: Path) -> Path:
    """Five questions: yes with a rewrite, no, not a question, labellers who disagree, not labelled."""

    async def fill(database: Database) -> None:
        context = message(100, "mmpose 支持移动端么，电话 13812345678", sender="u7")
        said = [message(number, f"第 {number} 个问题，联系 a@example.com？", sender=f"u{number}") for number in range(5)]
        await SqlInbox(database).add([context, *said])
        log, labels = SqlQuestionLog(database), SqlLabels(database)
        await log.record_many([ask(one, context=(context,)) for one in said])
        await log.judged(KEYS[0], verdict(0.9))
        await log.resolved(KEYS[0], resolution("模型的改写"))
        await labels.add(KEYS[0], "anna", LabelValue.YES, "怎么把 mmpose 装到 13812345678 上？")
        await labels.add(KEYS[1], "anna", LabelValue.NO)
        await labels.add(KEYS[2], "anna", LabelValue.NOT_QUESTION)
        for labeller, label in (("anna", LabelValue.YES), ("ben", LabelValue.NO), ("carl", LabelValue.NO)):
            await labels.add(KEYS[3], labeller, label)

    within(config, fill)
    return config


def snapshot(config: Path) -> Result:
    return CliRunner().invoke(app, ["--config", str(config), "--out", str(config.parent / "snapshots")])


def taken(config: Path) -> tuple[Path, list[dict[str, Any]], dict[str, Any]]:
    """Folder, records and manifest of a snapshot that is taken now."""
    run = snapshot(config)
    assert run.exit_code == 0, run.output
    folder = Path(run.stdout.strip())
    records = [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    return folder, records, json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_records_are_what_training_and_evaluation_read(labelled: Path) -> None:
    folder, records, manifest = taken(labelled)
    assert records[0] == {
        "id": KEYS[0],
        "lang": "zh",
        "context": [{"sender": "A", "text": "mmpose 支持移动端么，电话 [电话]"}],
        "sender": "B",
        "question": "第 0 个问题，联系 [邮箱]？",
        "needs_resolution": True,
        "label": "yes",
        "rewrite": "怎么把 mmpose 装到 [电话] 上？",
    }
    assert [(record["id"], record["label"], record["rewrite"] is None) for record in records[1:]] == [(KEYS[1], "no", True), (KEYS[2], "not_question", True), (KEYS[3], "no", True)]
    assert manifest["labels"] == {"yes": 1, "no": 2, "not_question": 1}
    assert manifest["sha256"] == hashlib.sha256((folder / "labels.jsonl").read_bytes()).hexdigest()
    assert (manifest["previous"], manifest["changes"]) == (None, {"added": KEYS[:4], "changed": [], "removed": []})
    assert [sample.label for sample in load_samples([folder / "labels.jsonl"])] == ["yes", "no", "not_question", "no"]
    assert [record.truth for record in read_file(folder / "labels.jsonl").records] == ["yes", "no", "not_question", "no"]  # type: ignore[union-attr]


def test_an_adjudication_is_the_last_word(labelled: Path) -> None:
    async def settle(database: Database) -> None:
        async with database._writer_engine.begin() as connection:
            await connection.execute(sa.insert(adjudications), {"question_id": KEYS[3], "label": "yes", "rewrite": "完整", "adjudicator": "dora", "created_at": START})

    within(labelled, settle)
    _, records, _ = taken(labelled)
    assert (records[3]["label"], records[3]["rewrite"]) == ("yes", "完整")


def test_the_same_labels_on_the_same_day_are_one_snapshot_and_changes_are_told(labelled: Path) -> None:
    first, _, _ = taken(labelled)
    again = snapshot(labelled)
    assert Path(again.stdout.strip()) == first
    assert "nothing has changed" in again.stderr

    async def change(database: Database) -> None:
        labels = SqlLabels(database)
        await labels.add(KEYS[4], "anna", LabelValue.YES)
        await labels.add(KEYS[1], "ben", LabelValue.YES, "改写")
        for label in await labels.of_question(KEYS[2]):
            await labels.remove(label.id)

    within(labelled, change)
    second, _, manifest = taken(labelled)
    assert second.name == f"{first.name}.2"
    assert manifest["previous"]["name"] == first.name
    assert manifest["previous"]["intact"] is True
    assert manifest["changes"] == {"added": [KEYS[4]], "changed": [{"id": KEYS[1], "fields": ["needs_resolution", "label", "rewrite"]}], "removed": [KEYS[2]]}
    assert sorted(path.name for path in first.parent.iterdir()) == [first.name, second.name], "nothing half-written is left"


def test_who_opts_out_is_absent_and_earlier_snapshots_that_still_hold_them_are_named(labelled: Path) -> None:
    first, _, _ = taken(labelled)

    async def leave(database: Database) -> None:
        await SqlMembers(database).opt_out("feishu", "u0")
        await SqlMembers(database).opt_out("feishu", "u7")

    within(labelled, leave)
    run = snapshot(labelled)
    folder = Path(run.stdout.strip())
    text = (folder / "labels.jsonl").read_text(encoding="utf-8")
    assert KEYS[0] not in text
    assert "mmpose" not in text
    assert f"{first} still holds 4 questions that were erased" in run.stderr


def test_earlier_snapshots_that_hold_words_of_who_asked_nothing_are_named_too(labelled: Path) -> None:
    first, _, _ = taken(labelled)

    async def leave(database: Database) -> None:
        await SqlMembers(database).opt_out("feishu", "u7")

    within(labelled, leave)
    assert f"{first} still holds 4 questions that were erased since, wholly or in their context" in snapshot(labelled).stderr


def test_a_snapshot_that_was_edited_is_told(labelled: Path) -> None:
    first, records, _ = taken(labelled)
    (first / "labels.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[:2]))
    run = snapshot(labelled)
    assert run.exit_code == 0
    assert f"{first.name} was edited" in run.stderr


@pytest.mark.parametrize(("name", "content"), [("labels.jsonl", "{broken"), ("labels.jsonl", '{"no": "id"}'), ("manifest.json", "[]"), ("manifest.json", "")])
def test_a_broken_earlier_snapshot_is_one_clear_line(labelled: Path, name: str, content: str) -> None:
    first, _, _ = taken(labelled)
    (first / name).write_text(content)
    run = snapshot(labelled)
    assert run.exit_code == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert str(first / name) in run.stderr


def test_an_empty_log_makes_an_empty_snapshot(config: Path) -> None:
    _, records, manifest = taken(config)
    assert records == []
    assert manifest["questions"] == 0


def test_where_nothing_can_be_written(labelled: Path) -> None:
    (labelled.parent / "snapshots").write_text("a file")
    run = snapshot(labelled)
    assert run.exit_code == 2
    assert "cannot be written" in run.stderr
