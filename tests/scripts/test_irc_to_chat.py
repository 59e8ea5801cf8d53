from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from typer.testing import CliRunner

from adapters.replay import read_chat
from core.context import FEATURES
from core.messages import Message
from scripts import context_weights
from scripts.irc_to_chat import app
from tests.scripts.evaluation_files import CHANNEL, GATE, write


def test_each_channel_becomes_a_chat_that_replay_reads(tmp_path: Path) -> None:
    files = write(tmp_path / "threads.jsonl", CHANNEL, {**CHANNEL, "file": "dev/two"})
    run = CliRunner().invoke(app, [str(files), "--out", str(tmp_path / "chats")])
    assert run.exit_code == 0, run.output
    chats = sorted((tmp_path / "chats").iterdir())
    assert [path.name for path in chats] == ["dev_one.jsonl", "dev_two.jsonl"]
    messages = [item for item in read_chat(chats[0]) if isinstance(item, Message)]
    assert [message.sender_id for message in messages] == ["amy", "joe", "bob", "amy"]
    assert messages[-1].sent_at - messages[0].sent_at == timedelta(minutes=4), "midnight lies between"
    assert messages[0].chat_id == "dev/one"


def test_all_channels_in_one_file_with_system_lines(tmp_path: Path) -> None:
    files = write(tmp_path / "threads.jsonl", CHANNEL, {**CHANNEL, "file": "dev/two"})
    out = tmp_path / "all.jsonl"
    assert CliRunner().invoke(app, [str(files), "--out", str(out), "--system-lines"]).exit_code == 0
    items = list(read_chat(out))
    assert len(items) == 10
    assert all(isinstance(item, Message) for item in items)


def test_another_form_is_refused_by_name(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, [str(write(tmp_path / "gate.jsonl", *GATE)), "--out", str(tmp_path / "chats")])
    assert run.exit_code == 2
    assert "is a gate file" in run.stderr


def test_context_weights_are_fitted_and_measured(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", CHANNEL)
    run = CliRunner().invoke(context_weights.app, [str(train), str(train)])
    assert run.exit_code == 0, run.output
    items = context_weights.load_items(train)
    weights = context_weights.fit(items)
    assert len(weights) == len(FEATURES)
    assert f"WEIGHTS = {weights}" in run.stdout
    assert context_weights.recall(items, weights)[0] == 1.0
