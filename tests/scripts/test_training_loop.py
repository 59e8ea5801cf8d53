"""The training loop's promises, on a model of a few thousand weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.training.loop import LoopSettings, Progress, TokenExample, fit, make_optimizer


def tiny(dropout: float = 0.0, rslora: bool = False) -> Any:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3
    )
    lora = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", use_rslora=rslora)
    return peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)


def parity(count: int = 96) -> list[TokenExample]:
    """Answer 1 where token 7 stands in the prompt, else 2."""
    return [TokenExample((5, 7 if i % 2 else 9, 10 + i % 20), (1 if i % 2 else 2,), choices=(1, 2) if i % 3 else ()) for i in range(count)]


SETTINGS = LoopSettings(learning_rate=1e-2, epochs=4, batch_size=8, warmup_steps=2, save_every=5, eval_every=12)


def weights(model: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


def test_the_loop_learns(tmp_path: Path) -> None:
    result = fit(tiny(), lambda epoch: parity(), SETTINGS, tmp_path, 0, parity(16))
    assert result.steps == 48
    assert result.validation[-1][1] < result.validation[0][1] * 0.5


class KilledError(Exception):
    """Stands for kill -9: whatever was not on disk is gone."""


def test_a_killed_run_continues_to_the_same_weights(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    whole, broken = tiny(dropout=0.2), tiny(dropout=0.2)
    fit(whole, lambda epoch: parity(), SETTINGS, tmp_path / "whole", 0)

    def kill(progress: Progress) -> None:
        if progress.step == 13:
            raise KilledError

    with pytest.raises(KilledError):
        fit(broken, lambda epoch: parity(), SETTINGS, tmp_path / "broken", 0, on_progress=kill)
    (tmp_path / "broken" / "checkpoint.new").mkdir()  # a kill in the middle of a save
    again, steps = tiny(dropout=0.2), list[int]()
    fit(again, lambda epoch: parity(), SETTINGS, tmp_path / "broken", 0, on_progress=lambda progress: steps.append(progress.step))
    assert steps[0] == 11, "the checkpoint of step 10"
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    fit(tiny(), lambda epoch: parity(), SETTINGS, tmp_path, 0)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    steps: list[int] = []
    fit(tiny(), lambda epoch: parity(), SETTINGS, tmp_path, 0, on_progress=lambda progress: steps.append(progress.step))
    assert steps == [], "the finished run is recognised"


def test_early_stop_keeps_the_best_weights(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model, noise = tiny(), [TokenExample((5, 20 + i), (1 + i % 2,)) for i in range(16)]
    settings = LoopSettings(learning_rate=5e-2, epochs=40, batch_size=8, warmup_steps=0, schedule="constant", eval_every=2, patience=3, save_every=100)
    wrong = [TokenExample(e.prompt, (3 - e.answer[0],)) for e in noise]
    result = fit(model, lambda epoch: noise, settings, tmp_path, 0, wrong)
    assert result.stopped_early
    assert result.best_step < result.steps


@pytest.mark.parametrize("change", [{"loraplus_ratio": 16.0}, {"accumulation": 2}, {"label_smoothing": 0.1}, {"schedule": "linear"}])
def test_variants_of_the_loop_learn_too(tmp_path: Path, change: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    result = fit(tiny(), lambda epoch: parity(), replace(SETTINGS, learning_rate=5e-3, **change), tmp_path, 0)
    assert sum(result.losses[-4:]) < sum(result.losses[:4])


def test_the_loss_is_on_answers_alone() -> None:
    torch = pytest.importorskip("torch")
    from scripts.training.loop import answer_loss, collate

    model = tiny()
    batch = collate([TokenExample((5, 6, 7), (8, 9)), TokenExample((5,), (8,))], 0, "cpu")
    full = model(input_ids=batch["ids"], attention_mask=batch["mask"]).logits.log_softmax(-1)
    by_hand = -(full[0, 2, 8] + full[0, 3, 9] + full[1, 0, 8]) / 3
    assert torch.allclose(answer_loss(model, batch), by_hand, atol=1e-5)


def figures(result: Any) -> tuple[Any, ...]:
    return result.steps, result.tokens, result.losses, result.validation, result.best_step, result.stopped_early


def test_what_a_killed_run_tells_of_itself_is_what_an_uninterrupted_one_tells(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    whole = fit(tiny(), lambda epoch: parity(), SETTINGS, tmp_path / "whole", 0, parity(16))

    def kill(progress: Progress) -> None:
        if progress.step == 13:
            raise KilledError

    with pytest.raises(KilledError):
        fit(tiny(), lambda epoch: parity(), SETTINGS, tmp_path / "broken", 0, parity(16), on_progress=kill)
    saved = json.loads((tmp_path / "broken" / "checkpoint" / "state.json").read_text())["seconds"]
    resumed = fit(tiny(), lambda epoch: parity(), SETTINGS, tmp_path / "broken", 0, parity(16))
    assert figures(resumed) == figures(whole)
    assert resumed.seconds > saved > 0
    again = fit(tiny(), lambda epoch: parity(), SETTINGS, tmp_path / "broken", 0, parity(16))
    assert (figures(again), again.seconds) == (figures(resumed), resumed.seconds)


def test_nothing_is_evaluated_and_only_the_end_is_saved_where_both_are_never(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "best.safetensors").write_bytes(b"of another run")
    result = fit(tiny(), lambda epoch: parity(16), replace(SETTINGS, eval_every=0, save_every=0, epochs=1), tmp_path, 0, parity(8))
    assert (result.validation, result.best_step) == ([], result.steps)
    assert json.loads((tmp_path / "checkpoint" / "state.json").read_text())["step"] == result.steps


def test_lora_plus_decays_weights_as_asked() -> None:
    pytest.importorskip("torch")
    groups = make_optimizer(tiny(), replace(SETTINGS, loraplus_ratio=16.0, weight_decay=0.3)).param_groups
    assert {group["weight_decay"] for group in groups if group["params"]} == {0.3}
    assert len({group["lr"] for group in groups if group["params"]}) == 2
