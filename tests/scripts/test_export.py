from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.messages import Message
from core.records import letter
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
    out = config.parent / "out.json"
    run = CliRunner().invoke(app, ["--config", str(config), "--format", form, "--out", str(out), *options])
    assert run.exit_code == 0, run.output
    assert [path for path in config.parent.iterdir() if path.name.endswith(".partial")] == []
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


def test_errors_are_one_line(config: Path) -> None:
    for options in (["--since", "yesterday"], ["--out", str(config.parent / "no" / "file")]):
        run = CliRunner().invoke(app, ["--config", str(config), "--format", "jsonl", "--out", str(config.parent / "x"), *options])
        assert run.exit_code == 2
        assert len(run.stderr.strip().splitlines()) == 1


def test_letters_go_on_after_z() -> None:
    assert [letter(number) for number in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
