"""bots.replay as a user runs it: real processes, real files, without a model."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bots.warm import Warm

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "group_chat.jsonl"


Replay = Callable[..., subprocess.CompletedProcess[str]]


def environment(database: Path, **extra: str) -> dict[str, str]:
    return {"DOUJIE_GATE__BACKEND": "none", "DOUJIE_STORAGE__URL": f"sqlite+aiosqlite:///{database}", **extra}


@pytest.fixture
def replay(warm: Warm) -> Replay:
    """``python -m bots.replay`` in a process of its own."""

    def run(database: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return warm.run("bots.replay", *arguments, environment=environment(database, **extra))

    return run


def contents(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What the database says, without times of storing and row numbers."""
    connection = sqlite3.connect(database)
    found = {
        "messages": connection.execute("SELECT chat_id, message_id, sender_id, text, utterance_id FROM messages ORDER BY chat_id, message_id").fetchall(),
        "questions": connection.execute("SELECT id, text, context, message_ids, rule, status FROM questions ORDER BY id").fetchall(),
    }
    connection.close()
    return found


def chat(path: Path, count: int = 2400, seed: int = 3) -> Path:
    """A chat in which members talk into each other's half sentences, in three groups."""
    dice = random.Random(seed)
    clock = 1_772_400_000.0
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            clock += dice.expovariate(1 / 4)
            text = dice.choice(["搭车问一下", "ncnn 支持 int8 吗", "怎么把它部署到 TX2？", "哈哈", "我看看", "does it work on arm?", "[图片]"])
            line = {"chat_id": f"g{dice.randrange(3)}", "message_id": str(number), "sender_id": f"u{dice.randrange(6)}", "text": f"{text}", "sent_at": clock}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path


def test_the_example_chat_goes_in_and_comes_out_in_order_of_asking(tmp_path: Path, replay: Replay) -> None:
    out, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    done = replay(tmp_path / "d.db", str(EXAMPLE), "--out", str(out), "--json", str(summary))
    assert done.returncode == 0, done.stderr
    counted = json.loads(summary.read_text())
    assert list(counted) == ["messages_in", "stored", "duplicates", "bad", "utterances", "questions", "judged", "needs_resolution", "resolved", "seconds"]
    assert counted["messages_in"] == counted["stored"] > 150
    assert counted["bad"] == counted["duplicates"] == counted["judged"] == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == counted["questions"] > 30
    assert [row["asked_at"] for row in rows] == sorted(row["asked_at"] for row in rows)
    assert rows[0]["sender"] == "A"
    again = replay(tmp_path / "d.db", str(EXAMPLE), "--json", str(summary))
    assert again.returncode == 0
    repeated = json.loads(summary.read_text())
    assert (repeated["stored"], repeated["utterances"], repeated["questions"]) == (0, 0, 0)


def test_a_recalled_message_is_nowhere(tmp_path: Path, replay: Replay) -> None:
    lines = [json.loads(line) for line in EXAMPLE.read_text(encoding="utf-8").splitlines()]
    recalled = {line["reply_to"] for line in lines if line.get("kind") == "recall"}
    texts = {line["text"] for line in lines if line["message_id"] in recalled}
    assert texts
    assert replay(tmp_path / "d.db", str(EXAMPLE)).returncode == 0
    everything = str(contents(tmp_path / "d.db"))
    for text in texts:
        assert text not in everything


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_anywhere_and_started_again_the_database_ends_the_same(tmp_path: Path, warm: Warm, replay: Replay, seed: int) -> None:
    log = chat(tmp_path / "chat.jsonl")
    assert replay(tmp_path / "whole.db", str(log)).returncode == 0
    dice, killed = random.Random(seed), tmp_path / "killed.db"
    kills = 0
    for _ in range(40):
        process = warm.command("bots.replay", str(log), environment=environment(killed))
        goal = stored(killed) + dice.randrange(1, 900)
        while process.alive and stored(killed) < goal:
            time.sleep(0.001)
        process.kill()
        if process.wait() != -signal.SIGKILL:
            assert process.wait() == 0
            break
        kills += 1
    assert kills >= 2
    assert replay(killed, str(log)).returncode == 0
    assert contents(killed) == contents(tmp_path / "whole.db")


def stored(database: Path) -> int:
    """Messages in the database so far; 0 before there is one."""
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=0.01)
        count = connection.execute("SELECT count(*) FROM messages").fetchone()[0]
        connection.close()
    except sqlite3.OperationalError:
        return 0
    return int(count)


def test_bad_lines_are_named_counted_and_skipped(tmp_path: Path, replay: Replay) -> None:
    log = tmp_path / "chat.jsonl"
    good = '{"chat_id": "g", "sender_id": "a", "text": "%s", "sent_at": %d}'
    log.write_text(
        "\n".join(
            [
                good % ("ncnn 支持 int8 吗", 1_772_400_000),
                "{not json",
                '{"chat_id": "g", "sender_id": "a", "text": "no time"}',
                '{"chat_id": "g", "sender_id": "a", "text": "x", "sent_at": 5}',
                good % (r"lone \ud800 surrogate and NUL \u0000 怎么办？", 1_772_400_100),
                good % ("长" * 100_000, 1_772_400_200),
                good % ("\u202eabc 👩‍👩‍👧 行吗", 1_772_400_300),
            ]
        ),
        encoding="utf-8",
    )
    done = replay(tmp_path / "d.db", str(log), "--out", str(tmp_path / "o.jsonl"))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["stored"], summary["bad"]) == (4, 3)
    lines = done.stderr.splitlines()
    for number in (2, 3, 4):
        assert any(f"chat.jsonl:{number}:" in line and "replay the file again" in line for line in lines), "one line: what, where, remedy"
    log.write_text(log.read_text(encoding="utf-8").replace("{not json", good % ("补上的一行", 1_772_400_050)), encoding="utf-8")
    again = json.loads(replay(tmp_path / "d.db", str(log), "--out", str(tmp_path / "o.jsonl")).stdout)
    assert (again["stored"], again["bad"]) == (1, 2), "only what was mended"


@pytest.mark.parametrize(
    ("arguments", "extra", "words"),
    [
        (["nowhere.jsonl"], {}, ["nowhere.jsonl", "no such file"]),
        ([str(EXAMPLE)], {"DOUJIE_GATE__TRESHOLD": "0.5"}, ["treshold", "unknown key", "threshold"]),
        ([str(EXAMPLE)], {"DOUJIE_GATE__BACKEND": "llama_cpp", "DOUJIE_GATE__MODEL": "/nowhere/model.gguf"}, ["[gate] model", "file not found"]),
        ([str(EXAMPLE), "--out", "/nowhere/o.jsonl"], {}, ["/nowhere/o.jsonl", "cannot be written"]),
        ([], {}, ["CHAT", "no chat log given"]),
        (["/proc/self/mem"], {}, ["/proc/self/mem", "cannot be read"]),
    ],
)
def test_what_a_user_gets_wrong_is_one_clear_line_and_exit_code_2(tmp_path: Path, replay: Replay, arguments: list[str], extra: dict[str, str], words: list[str]) -> None:
    done = replay(tmp_path / "d.db", *arguments, **extra)
    assert done.returncode == 2
    message = " ".join(done.stderr.split())
    assert "Traceback" not in message
    for word in words:
        assert word in message


def test_two_platforms_with_the_same_chat_id_stay_apart(tmp_path: Path, replay: Replay) -> None:
    log = tmp_path / "chat.jsonl"
    lines = [{"platform": platform, "chat_id": "g", "message_id": "1", "sender_id": "a", "text": "它支持么", "sent_at": 1_772_400_000} for platform in ("wechat", "feishu")]
    log.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    done = replay(tmp_path / "d.db", str(log))
    assert json.loads(done.stdout)["questions"] == 2


def test_check_says_what_would_be_used(tmp_path: Path, replay: Replay) -> None:
    done = replay(tmp_path / "d.db", "--check")
    assert done.returncode == 0, done.stderr
    assert "database" in done.stdout
    assert replay(tmp_path / "d.db", "--check", DOUJIE_GATE__BACKEND="llama_cpp", DOUJIE_GATE__MODEL="/nowhere/model.gguf").returncode == 2
