from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from core.config import load_config
from core.messages import Message
from core.records import json_line, letter
from scripts.export import app
from storage.engine import open_database
from storage.inbox import SqlInbox
from storage.labels import LabelValue, SqlLabels
from storage.questions import SqlQuestionLog
from tests.storage.samples import ask, message, resolution, verdict


async def fill(url: str) -> list[str]:
    """Three questions: judged and resolved, labelled no question, and asked a minute later without a verdict."""
    database = await open_database(url)
    said: list[Message] = [
        message(1, "mmpose 支持移动端么，我电话13812345678", sender="u2"),
        message(2, "支持的", sender="u3"),
        message(3, "怎么把它部署到 TX2？", sender="u1"),
        message(4, "谁知道呢？", sender="u2"),
        message(63, "ncnn 呢？", sender="u4"),
    ]
    await SqlInbox(database).add(said)
    entries = [ask(said[2], context=(said[0], said[1])), ask(said[3]), ask(said[4], context=(said[0],))]
    log = SqlQuestionLog(database)
    await log.record_many(entries)
    ids = [question.id for _, question in entries]
    await log.judged(ids[0], verdict(0.875))
    await log.resolved(ids[0], resolution("怎么把 mmpose 部署到 TX2？"))
    await SqlLabels(database).add(ids[0], "me", LabelValue.YES)
    await SqlLabels(database).add(ids[1], "me", LabelValue.NOT_QUESTION)
    await database.close()
    return ids


@pytest.fixture
def config(tmp_path: Path) -> Path:
    url = f"sqlite+aiosqlite:///{tmp_path / 'log.db'}"
    path = tmp_path / "config.ini"
    path.write_text(f"[storage]\nurl = {url}\n")
    asyncio.run(fill(url))
    return path


def export(config: Path, form: str, *options: str) -> Any:
    """What the file holds; the folder of a dataset."""
    out = config.parent / "out.json"
    run = CliRunner().invoke(app, ["--config", str(config), "--format", form, "--out", str(out), *options])
    assert run.exit_code == 0, run.output
    assert [path for path in config.parent.iterdir() if path.name.endswith(".partial")] == []
    if form == "hf":
        return out
    text = out.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if form == "jsonl" else json.loads(text)


def test_jsonl_has_the_fixed_fields_with_letters_for_members_and_masked_texts(config: Path) -> None:
    first, second, third = export(config, "jsonl")
    assert first == {
        "id": "feishu:g1:m3",
        "platform": "feishu",
        "chat_id": "g1",
        "sender": "C",
        "question": "怎么把它部署到 TX2？",
        "context": [{"sender": "A", "text": "mmpose 支持移动端么，我电话[电话]"}, {"sender": "B", "text": "支持的"}],
        "message_ids": ["m3"],
        "asked_at": "2026-03-01T09:00:03+00:00",
        "probability": 0.875,
        "needs_resolution": True,
        "rewrite": "怎么把 mmpose 部署到 TX2？",
        "model": "tiny+group-lora",
        "label": "yes",
    }
    assert (second["sender"], second["label"], second["probability"]) == ("A", "not_question", None)
    assert third["label"] is None


def test_since_and_labelled_choose(config: Path) -> None:
    assert [record["id"] for record in export(config, "jsonl", "--since", "2026-03-01T17:00:30+08:00")] == ["feishu:g1:m63"]
    assert [record["label"] for record in export(config, "jsonl", "--labelled")] == ["yes", "not_question"]
    assert export(config, "alpaca", "--since", "2027-01-01") == []


def test_alpaca_never_turns_no_question_into_no_and_shuffles_the_same_way_each_time(config: Path) -> None:
    (record,) = export(config, "alpaca")
    assert record["input"] == ""
    chosen, text = record["output"].split(":")
    assert text == "需要提取"
    assert f"{chosen}:需要提取" in record["instruction"]
    assert all(option in record["instruction"] for option in ("不需要提取，信息完整", "不知道", "怎么把它部署到 TX2？", '{"sender": "A"'))
    assert export(config, "alpaca") == [record]


def test_label_studio_tasks_bring_predictions_and_annotations(config: Path) -> None:
    first, second, third = export(config, "label-studio")
    (prediction,) = first["predictions"]
    assert prediction["score"] == 0.875
    assert prediction["result"][0]["value"] == {"choices": ["yes"]}
    assert prediction["result"][1]["value"] == {"text": ["怎么把 mmpose 部署到 TX2？"]}
    assert second["annotations"][0]["result"][0]["value"] == {"choices": ["not_question"]}
    assert third["predictions"] == []
    assert "annotations" not in third
    assert first["data"]["dialogue"][0]["author"] == "A"


def test_a_dataset_folder_has_typed_rows_and_a_card(config: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    for _ in range(2):  # the second export replaces the first
        folder = export(config, "hf")
    first, second, third = parquet.read_table(folder / "data").to_pylist()
    assert first == {
        "id": "feishu:g1:m3",
        "lang": "zh",
        "asked_at": datetime(2026, 3, 1, 9, 0, 3, tzinfo=UTC),
        "sender": "C",
        "question": "怎么把它部署到 TX2？",
        "context": [{"sender": "A", "text": "mmpose 支持移动端么，我电话[电话]"}, {"sender": "B", "text": "支持的"}],
        "label": "yes",
        "label_rewrite": None,
        "probability": 0.875,
        "needs_resolution": True,
        "model": "tiny+group-lora",
        "rewrite": "怎么把 mmpose 部署到 TX2？",
    }
    assert (second["label"], second["context"], second["probability"]) == ("not_question", [], None)
    assert third["label"] is None
    card = (folder / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert (head["language"], head["size_categories"]) == (["zh"], ["n<1K"])
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert "3 rows, 2 of them labelled (1 not_question, 1 yes)" in card


def test_an_empty_dataset_still_has_its_columns(config: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = parquet.read_table(export(config, "hf", "--since", "2030-01-01") / "data")
    assert table.num_rows == 0
    assert "label" in table.column_names


def test_a_folder_of_somebody_elses_is_not_replaced(config: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    out = config.parent / "out.json"
    out.mkdir()
    (out / "thesis.tex").write_text("\\documentclass")
    run = CliRunner().invoke(app, ["--config", str(config), "--format", "hf", "--out", str(out)])
    assert run.exit_code == 2
    assert "is no exported dataset" in run.stderr
    assert (out / "thesis.tex").exists()


def test_the_label_is_what_labellers_agree_on(config: Path) -> None:
    async def vote() -> None:
        database = await open_database(load_config(config).storage.url)
        for labeller in ("anna", "ben"):
            await SqlLabels(database).add("feishu:g1:m3", labeller, LabelValue.NO)
        await SqlLabels(database).add("feishu:g1:m3", "me", LabelValue.YES)
        await database.close()

    asyncio.run(vote())
    assert export(config, "jsonl")[0]["label"] == "no"


def test_line_separators_inside_a_text_do_not_end_a_line() -> None:
    line = json_line({"question": "一\u2028二\u2029三\x85四"})
    assert len(line.splitlines()) == 1
    assert json.loads(line)["question"] == "一\u2028二\u2029三\x85四"


def test_errors_are_one_line(config: Path) -> None:
    for options in (["--since", "yesterday"], ["--out", str(config.parent / "no" / "file")], ["--out", "."], ["--out", "/", "--format", "hf"]):
        run = CliRunner().invoke(app, ["--config", str(config), "--format", "jsonl", "--out", str(config.parent / "x"), *options])
        assert run.exit_code == 2
        assert len(run.stderr.strip().splitlines()) == 1


def test_letters_go_on_after_z() -> None:
    assert [letter(number) for number in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
