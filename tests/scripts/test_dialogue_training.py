"""The writer of short dialogues: what it learns from, what it is measured on, and how its confidence is calibrated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.dialogue import DialogueCalibration
from core.errors import InputError
from scripts.training.data import data_hash, load_samples
from scripts.training.dialogue import Written, calibrate, kept_aside, main, says_the_same
from scripts.training.rewrite_task import RewriteTask


def encode(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def test_it_learns_from_short_dialogues_alone_and_compares_the_tokens_of_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    said = [{"sender": "A", "text": "看过流浪地球吗"}, {"sender": "B", "text": "看过"}]
    records = [
        {"id": "short", "context": said, "sender": "A", "question": "谁演的", "needs_resolution": True, "rewrite": "流浪地球谁演的"},
        {"id": "long", "context": [*said, *said], "sender": "A", "question": "谁拍的", "needs_resolution": True, "rewrite": "流浪地球谁拍的"},
        {"id": "three", "context": [*said, {"sender": "C", "text": "没看过"}], "sender": "A", "question": "谁写的", "needs_resolution": True, "rewrite": "流浪地球谁写的"},
    ]
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    samples = load_samples([path])
    (example,) = RewriteTask(samples, encode, (2,), "dialogue-1", 8).epoch(0)
    assert "".join(map(chr, example.prompt[1:])) == "Q: 看过流浪地球吗\nA: 看过\nQ: 谁演的\n=>"
    assert "".join(map(chr, example.answer)) == " 流浪地球谁演的\n"
    assert set(example.choices) == set(example.prompt[1:]) | set(example.answer)
    assert len(RewriteTask(samples, encode, (2,), "rewrite-v1", 8).epoch(0)) == 3


def test_surer_rewrites_are_accepted_and_at_most_three_in_twenty_of_them_are_wrong() -> None:
    written = [Written(-0.1 - 0.001 * n, -0.3, True, n % 20 != 0, True) for n in range(200)] + [Written(-1.0 - 0.001 * n, -2.0, False, n % 2 == 0, True) for n in range(200)]
    weights, figures = calibrate(written, seed=1)
    assert weights["mean_weight"] > 0
    assert 0.3 < figures["accepted"] < 0.7
    assert figures["wrong_of_accepted"] <= 0.15
    shipped = DialogueCalibration("t", "dialogue-1", **weights)
    assert shipped([-0.1, -0.3]) > shipped([-1.0, -2.0])
    assert shipped([]) == 0.0
    with pytest.raises(InputError, match="nothing to calibrate with"):
        calibrate(written[1:20], seed=1)


def test_the_same_words_count_as_right_whatever_connects_them() -> None:
    assert says_the_same("怎么把 mmpose 部署到 TX2？", "怎么把mmpose部署在TX2")
    assert not says_the_same("mmpose 怎么部署", "怎么部署 mmdet")


def test_what_training_saw_is_not_measured_and_what_was_given_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    said = [{"sender": "A", "text": "看过这部电影吗"}, {"sender": "B", "text": "看过"}]
    records = [{"id": f"p{n}", "context": said, "sender": "A", "question": f"{n} 谁演的", "needs_resolution": True, "rewrite": f"{n} 这部电影谁演的"} for n in range(200)]
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    chosen = kept_aside(load_samples([path, path]), validation=0.1, most=100, seed=1)
    assert 5 < len(chosen) < 40
    assert len({question.id for question, _ in chosen}) == len(chosen)


def test_a_run_that_is_not_there_or_of_other_files_is_one_line(tmp_path: Path) -> None:
    pairs, run = tmp_path / "pairs.jsonl", tmp_path / "run"
    pairs.write_text('{"question": "谁演的", "context": [], "needs_resolution": false}\n', encoding="utf-8")
    with pytest.raises(InputError, match="no finished training"):
        main([pairs], run, tmp_path / "out")
    run.mkdir()
    (run / "settings.json").write_text('{"settings": {"validation": 0.1, "rewrite_prompt": "dialogue-1"}}', encoding="utf-8")
    (run / "metrics.json").write_text(json.dumps({"data_hash": "of others"}), encoding="utf-8")
    (run / "adapter.gguf").write_bytes(b"")
    assert data_hash([pairs]) != "of others"
    with pytest.raises(InputError, match="trained on other files"):
        main([pairs], run, tmp_path / "out")


def finished_run(folder: Path, data: Path, prompt: str = "dialogue-1", validation: float = 0.1) -> Path:
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"settings": {"validation": validation, "rewrite_prompt": prompt}}), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps({"data_hash": data_hash([data])}), encoding="utf-8")
    (folder / "adapter.gguf").write_bytes(b"")
    return folder


def test_what_cannot_be_calibrated_is_one_line_and_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("llama_cpp")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"question": "谁演的", "context": [], "needs_resolution": false}\n', encoding="utf-8")
    run = finished_run(tmp_path / "run", pairs)
    with pytest.raises(InputError, match="cannot be read"):
        main([tmp_path / "none.jsonl"], run, tmp_path / "out")
    with pytest.raises(InputError, match="kept no question of a short dialogue aside"):
        main([pairs], run, tmp_path / "out")
    with pytest.raises(InputError, match="whose figures would be lost"):
        main([pairs], run, run)
    with pytest.raises(InputError, match="trained with rewrite-v2"):
        main([pairs], finished_run(tmp_path / "other", pairs, "rewrite-v2"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
