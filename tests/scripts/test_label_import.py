"""Labels from elsewhere: every form, broken files, twice the same, beside a bot that writes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from core.errors import StorageError
from core.messages import Recall
from scripts.exchange.reading import GivenLabel
from scripts.export import app as export_app
from scripts.label_import import app, import_labels
from storage.engine import Database, open_database
from storage.inbox import SqlInbox
from storage.labels import Label, LabelValue, SqlLabels
from storage.questions import SqlQuestionLog
from storage.review_queue import QueueItem, QueueReason, SqlReviewQueue
from tests.storage.samples import ask, message, resolution, verdict

ROOT = Path(__file__).resolve().parents[2]
KEYS = [message(number).key for number in range(4)]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.ini"
    path.write_text(f"[storage]\nurl = sqlite:///{tmp_path / 'log.db'}\n")

    async def fill(database: Database) -> None:
        context = message(100, "mmpose 支持移动端么，电话 13812345678", sender="u7")
        said = [message(number, f"第 {number} 个问题呢？", sender=f"u{number}") for number in range(4)]
        await SqlInbox(database).add([context, *said])
        log = SqlQuestionLog(database)
        await log.record_many([ask(one, context=(context,)) for one in said])
        for key in KEYS:
            await log.judged(key, verdict(0.9))
            await log.resolved(key, resolution(f"{key} 的改写，13812345678"))
        await SqlReviewQueue(database).put([QueueItem(key, QueueReason.REFUSED, 3.0) for key in KEYS])

    within(path, fill)
    return path


def within(config: Path, work: Callable[[Database], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        database = await open_database(f"sqlite:///{config.parent / 'log.db'}")
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


def import_(config: Path, *files: Path, labeller: str = "anna", options: tuple[str, ...] = ()) -> Result:
    return CliRunner().invoke(app, ["--config", str(config), "--labeller", labeller, *options, *map(str, files)])


def labels(config: Path) -> list[Label]:
    return within(config, lambda database: SqlLabels(database).all())  # type: ignore[no-any-return]


def said(config: Path) -> list[tuple[str, str, str, str | None]]:
    return [(label.question_id, label.labeller, label.label, label.rewrite) for label in labels(config)]


def write(config: Path, content: object, name: str = "labels.json") -> Path:
    path = config.parent / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def annotation(choice: str | None, rewrite: str | None = None, **more: object) -> dict[str, Any]:
    result: list[dict[str, Any]] = []
    if choice is not None:
        result.append({"id": "x1", "from_name": "label", "to_name": "question", "type": "choices", "origin": "manual", "value": {"choices": [choice]}})
    if rewrite is not None:
        result.append({"id": "x2", "from_name": "rewrite", "to_name": "question", "type": "textarea", "value": {"text": [rewrite]}})
    return {"id": 11, "completed_by": 1, "was_cancelled": False, "result": result, "updated_at": "2026-03-02T10:00:00.5Z", "created_at": "2026-03-02T09:00:00Z", **more}


def task(key: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": 5, "data": {"id": key, "question": "……"}, "annotations": list(annotations), "predictions": [], "project": 3}


def exported(config: Path, form: str) -> list[Any]:
    out = config.parent / f"out.{form}"
    run = CliRunner().invoke(export_app, ["--config", str(config), "--format", form, "--out", str(out)])
    assert run.exit_code == 0, run.output
    text = out.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if form == "jsonl" else json.loads(text)  # type: ignore[no-any-return]


def test_label_studio_results_come_back_with_their_times_and_leave_the_queue(config: Path) -> None:
    tasks = [
        task(KEYS[0], annotation("yes", "完整的问题")),
        task(KEYS[1], annotation("no", "模型预填的改写")),
        task(KEYS[2], annotation("not_question", was_cancelled=True)),
        task(KEYS[3]),
    ]
    run = import_(config, write(config, tasks))
    assert run.exit_code == 0, run.output
    assert "2 labels stored, 0 known already, 2 records without a label" in run.stderr
    assert said(config) == [(KEYS[0], "anna", "yes", "完整的问题"), (KEYS[1], "anna", "no", None)]
    assert labels(config)[0].created_at == datetime(2026, 3, 2, 10, 0, 0, 500000, tzinfo=UTC)
    assert {item.question_id for item in within(config, lambda database: SqlReviewQueue(database).top(9))} == set(KEYS[2:])


def test_tasks_go_out_to_label_studio_and_come_back(config: Path) -> None:
    tasks = exported(config, "label-studio")
    for number, one in enumerate(tasks):
        one |= {"id": number, "annotations": [annotation("yes" if number % 2 else "no")]}
    assert import_(config, write(config, tasks)).exit_code == 0
    assert [label for _, _, label, _ in said(config)] == ["no", "yes", "no", "yes"]
    minimal = [{**one["data"], "id": number, "label": "not_question", "rewrite": "", "annotator": 2, "annotation_id": number} for number, one in enumerate(tasks)]
    assert import_(config, write(config, minimal), labeller="ben").exit_code == 0
    assert [label for _, labeller, label, _ in said(config) if labeller == "ben"] == ["not_question"] * 4


def test_an_edited_export_comes_back_and_the_bots_own_rewrite_is_nobodys_label(config: Path) -> None:
    records = exported(config, "jsonl")
    records[0]["label"] = "yes"
    records[1] |= {"label": "yes", "rewrite": "人写的改写"}
    records[2] |= {"label": "no"}
    assert import_(config, write(config, "\n".join(map(json.dumps, records)), "edited.jsonl")).exit_code == 0
    assert said(config) == [(KEYS[0], "anna", "yes", None), (KEYS[1], "anna", "yes", "人写的改写"), (KEYS[2], "anna", "no", None)]


@pytest.mark.parametrize("form", ["jsonl", "label-studio", "minimal"])
def test_a_rewrite_with_words_of_a_line_that_was_taken_back_since_the_export_is_not_stored(config: Path, form: str) -> None:
    rewrites = ["mmpose 第 0 个问题呢？", "第 1 个问题呢？"]
    if form == "jsonl":
        records = [{**one, "label": "yes", "rewrite": rewrite} for one, rewrite in zip(exported(config, form), rewrites, strict=False)]
    else:
        tasks = [{**one, "annotations": [annotation("yes", rewrite)]} for one, rewrite in zip(exported(config, "label-studio"), rewrites, strict=False)]
        minimal = [{**one["data"], "label": "yes", "rewrite": rewrite, "annotation_id": 1} for one, rewrite in zip(tasks, rewrites, strict=True)]
        records = tasks if form == "label-studio" else minimal
    path = write(config, records)
    within(config, lambda database: SqlInbox(database).recall(Recall("feishu", "g1", "m100", datetime(2026, 3, 2, tzinfo=UTC))))
    assert import_(config, path).exit_code == 0
    assert said(config) == [(KEYS[0], "anna", "yes", None), (KEYS[1], "anna", "yes", rewrites[1])]
    assert "0 labels stored, 2 known already" in import_(config, path).stderr


def test_alpaca_records_find_their_question_by_what_they_ask(config: Path) -> None:
    within(config, lambda database: SqlLabels(database).add_new([Label(key, "seed", LabelValue.YES, datetime(2026, 3, 1, tzinfo=UTC)) for key in KEYS]))
    records = exported(config, "alpaca")
    options = [dict(line.split(":", 1) for line in record["instruction"].splitlines() if line[1:2] == ":") for record in records]
    letters = [{text: letter for letter, text in offered.items()} for offered in options]
    records[1]["output"] = f"{letters[1]['不需要提取，信息完整']}:不需要提取，信息完整"
    records[2]["output"] = letters[2]["不需要提取，信息完整"]
    records[3]["output"] = f"{letters[3]['不知道']}:不知道"
    run = import_(config, write(config, records), options=("--format", "alpaca"))
    assert run.exit_code == 0, run.output
    assert [label for _, labeller, label, _ in said(config) if labeller == "anna"] == ["yes", "no", "no"]


def test_nothing_is_stored_twice_and_an_old_file_does_not_change_a_newer_mind(config: Path) -> None:
    path = write(config, [task(KEYS[0], annotation("yes", "完整的问题")), task(KEYS[1], annotation("no"))])
    assert "2 labels stored" in import_(config, path).stderr
    within(config, lambda database: SqlLabels(database).add(KEYS[1], "anna", LabelValue.YES))
    run = import_(config, path, path)
    assert run.exit_code == 0
    assert "0 labels stored, 4 known already" in run.stderr
    assert len(labels(config)) == 3
    assert exported(config, "jsonl")[1]["label"] == "yes"


def test_a_file_that_breaks_off_keeps_what_stands_before_the_break(config: Path) -> None:
    text = json.dumps([task(KEYS[number], annotation("no")) for number in range(3)], indent=1)
    path = write(config, text[: text.rindex("feishu")])
    run = import_(config, path)
    assert run.exit_code == 2
    assert f"{path}: record 3: the file breaks off or is no JSON in line" in run.stderr
    assert "2 labels stored" in run.stderr
    assert [key for key, *_ in said(config)] == KEYS[:2]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ("{oops", "line 2 is no JSON"),
        (f'{{"id": "q", "label": "no", "lead_time": {"1" * 5000}}}', "line 2 is no JSON (a number is too long)"),
        ("[1, 2]", "is no object but list"),
        ("{}", "is of no known form (its fields: none)"),
        ('{"id": 7, "label": "yes"}', "has no question's id in 'id'"),
        ('{"id": "feishu:g1:m1", "label": "perhaps"}', "has the label 'perhaps', which is none of yes, no, not_question"),
        ('{"id": "feishu:g1:m1", "label": "yes", "rewrite": ["a"]}', "has a rewrite that is no text"),
        ('{"id": "feishu:g1:m1", "question": "?"}', "has no 'label'"),
        ('{"id": 3, "annotation_id": 4, "label": "yes"}', "export from Label Studio as JSON"),
        ('{"data": {"id": "feishu:g1:m1"}}', "has not both 'data' and 'annotations'"),
        ('{"data": {"id": "feishu:g1:m1"}, "annotations": [{"result": "yes"}]}', "'result' is no list"),
        ('{"data": {"id": "feishu:g1:m1"}, "annotations": [{"result": [], "completed_by": 1}, 5]}', "an annotation that is no object"),
        ('{"data": {"id": "q"}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["yes", "no"]}}]}]}', "2 choices or texts"),
        ('{"data": {"id": "q"}, "annotations": [{"updated_at": "soon", "result": [{"type": "choices", "value": {"choices": ["yes"]}}]}]}', "the time 'soon'"),
        ('{"instruction": "A:需要提取", "output": "也许"}', "has the output '也许', which is none of"),
        ('{"instruction": 5, "output": "A"}', "has not both 'instruction' and 'output' as texts"),
    ],
)
def test_a_broken_record_is_named_and_the_good_ones_are_kept(config: Path, record: str, problem: str) -> None:
    good = [json.dumps({"id": KEYS[number], "label": "no"}) for number in (0, 1)]
    path = write(config, "\n".join([good[0], record, good[1]]), "labels.jsonl")
    run = import_(config, path)
    assert run.exit_code == 2
    assert f"{path}: record 2: " in run.stderr
    assert problem in run.stderr
    assert [key for key, *_ in said(config)] == KEYS[:2]


@pytest.mark.parametrize(("content", "problem"), [("", "holds no records"), ("[]", "holds no records"), (b"\xff\xfe\x00", "is not UTF-8"), (None, "cannot be read")])
def test_a_file_that_cannot_be_read_at_all_is_one_line(config: Path, content: str | bytes | None, problem: str) -> None:
    path = config.parent / "file.json"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    run = import_(config, path)
    assert run.exit_code == 2
    assert problem in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_many_broken_records_do_not_flood_the_terminal(config: Path) -> None:
    run = import_(config, write(config, "\n".join(["nonsense"] * 500), "labels.jsonl"))
    assert "and 480 more like these" in run.stderr
    assert "500 records broken" in run.stderr


def test_questions_that_were_erased_are_counted_and_no_error(config: Path) -> None:
    run = import_(config, write(config, [task("feishu:g1:gone", annotation("yes")), task(KEYS[0], annotation("yes"))]))
    assert run.exit_code == 0
    assert "record 1: its question is not in the log" in run.stderr
    assert "1 labels stored" in run.stderr


def test_an_id_that_is_no_unicode_is_of_no_question(config: Path) -> None:
    path = config.parent / "labels.jsonl"
    path.write_text(f'{{"id": "\\ud800", "label": "yes"}}\n{{"id": "{KEYS[0]}", "label": "yes"}}\n', encoding="utf-8")
    run = import_(config, path)
    assert run.exit_code == 0, run.exception
    assert "record 1: its question is not in the log" in run.stderr
    assert "1 labels stored" in run.stderr


@pytest.mark.parametrize("name", [" ", "an\nna", "\udcff"])
def test_a_name_that_nobody_can_read_is_refused(config: Path, name: str) -> None:
    run = import_(config, write(config, [task(KEYS[0], annotation("yes"))]), labeller=name)
    assert run.exit_code == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert labels(config) == []


def test_several_annotators_are_not_thrown_together(config: Path) -> None:
    path = write(config, [task(KEYS[0], annotation("yes"), annotation("no", completed_by={"id": 2, "email": "ben@example.com"}))])
    run = import_(config, path)
    assert run.exit_code == 2
    assert "2 annotators (1, 2)" in run.stderr
    assert "ben@" not in run.stderr
    assert labels(config) == []
    assert import_(config, path, options=("--annotator", "2"), labeller="ben").exit_code == 0
    assert said(config) == [(KEYS[0], "ben", "no", None)]
    assert "gave no label" in import_(config, path, options=("--annotator", "9")).stderr


def test_a_time_in_the_future_is_now(config: Path) -> None:
    import_(config, write(config, [task(KEYS[0], annotation("yes", updated_at="2090-01-01T00:00:00Z"))]))
    assert labels(config)[0].created_at <= datetime.now(UTC)


def test_a_bot_that_holds_the_database_is_waited_for_and_named_in_the_end(config: Path) -> None:
    given = [GivenLabel("labels.json: record 1", KEYS[0], LabelValue.YES)]

    async def run() -> None:
        path = config.parent / "log.db"
        bot = sqlite3.connect(path, isolation_level=None)
        database = await open_database(f"sqlite:///{path}", busy_timeout=0.02, patience=0.2)
        bot.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked by another process"):
            await import_labels(database, given, "anna")
        asyncio.get_running_loop().call_later(0.05, bot.execute, "ROLLBACK")
        assert (await import_labels(database, given, "anna")).stored == 1
        bot.close()
        await database.close()

    asyncio.run(run())
    assert len(labels(config)) == 1


def test_two_imports_at_the_same_time_store_each_label_once(config: Path) -> None:
    path = write(config, [task(key, annotation("yes", "完整")) for key in KEYS])
    command = [sys.executable, "-m", "scripts.label_import", str(path), "--labeller", "anna", "--config", str(config)]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sorted(key for key, *_ in said(config)) == KEYS
