"""``python -m scripts.train``: data forms, settings, the loop's promises, GGUF adapters, and what a user sees when something is wrong."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.errors import InputError
from scripts.train import app
from scripts.training.data import contrast, data_hash, fold_of, is_all_positive, load_samples
from scripts.training.loop import LoopSettings, Progress, TokenExample, fit
from scripts.training.settings import axolotl, override, preset
from scripts.training.tracking import FolderTracker, Trackers

WINDOW = {
    "id": "t9-001",
    "lang": "zh",
    "messages": [
        {"sender": "甲", "text": "rtmpose 好快", "at": "2026-03-02T10:00:00+08:00"},
        {"sender": "乙", "text": "它支持", "at": "2026-03-02T10:01:00+08:00"},
        {"sender": "丙", "text": "哈哈", "at": "2026-03-02T10:01:02+08:00"},
        {"sender": "乙", "text": "移动端么", "at": "2026-03-02T10:01:05+08:00"},
    ],
    "questions": [{"indices": [1, 3], "label": "yes", "gold": "rtmpose支持移动端么", "kind": "split", "antecedent_indices": [0]}],
}
SINGLE = {"id": "s1", "context": [{"sender": "A", "text": "武汉"}], "sender": "B", "question": "冷吗", "needs_resolution": True, "rewrite": "武汉冷吗"}
EXPORTED = {"id": "x", "platform": "feishu", "sender": "A", "question": "这个呢", "context": [], "probability": 0.9, "needs_resolution": True, "rewrite": "猜的", "label": None}


def write(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    return path


def test_a_window_gives_its_questions_with_the_lines_before(tmp_path: Path) -> None:
    (sample,) = load_samples([write(tmp_path / "w.jsonl", WINDOW)])
    assert sample.question == "它支持 移动端么"
    assert [line.text for line in sample.context] == ["rtmpose 好快", "哈哈"]
    assert sample.context[0].seconds_before == 65
    assert (sample.label, sample.rewrite, sample.group) == ("yes", "rtmpose支持移动端么", "t9")


def test_a_models_verdict_is_no_label(tmp_path: Path) -> None:
    judged, labelled = EXPORTED, EXPORTED | {"label": "no"}
    samples = load_samples([write(tmp_path / "e.jsonl", judged, labelled)])
    assert [s.label for s in samples] == ["", "no"]
    assert all(s.rewrite is None for s in samples), "and its rewrite is no gold"


def test_alpaca_is_learnt_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"instruction": "判断", "input": "问题", "output": "B:需要提取"}]), encoding="utf-8")
    (sample,) = load_samples([path])
    assert (sample.prompt, sample.answer) == ("判断\n问题\n", "B:需要提取")


def test_contrast_balances_pairs_that_are_all_positive(tmp_path: Path) -> None:
    records = [SINGLE | {"id": f"s{i}", "question": f"冷吗{i}", "rewrite": f"武汉冷吗{i}"} for i in range(10)]
    samples = contrast(load_samples([write(tmp_path / "p.jsonl", *records)]), seed=1)
    assert sum(s.needs_resolution for s in samples) == len(samples) / 2 == 10


def test_a_corpus_of_rewriting_pairs_is_known_despite_a_few_unchanged_ones(tmp_path: Path) -> None:
    pairs = [SINGLE | {"id": f"s{i}"} for i in range(40)]
    unchanged = {"id": "u", "question": "他在哪", "context": [], "needs_resolution": False, "rewrite": "他在哪"}
    assert is_all_positive(load_samples([write(tmp_path / "p.jsonl", *pairs, unchanged)]))
    assert not is_all_positive(load_samples([write(tmp_path / "g.jsonl", *pairs, *[unchanged] * 5)]))


def test_folds_keep_authors_and_equal_questions_together(tmp_path: Path) -> None:
    windows = load_samples([write(tmp_path / "w.jsonl", *[WINDOW | {"id": f"t9-{i}"} for i in range(20)])])
    assert len({fold_of(s, 7) for s in windows}) == 1
    singles = load_samples([write(tmp_path / "s.jsonl", *[SINGLE | {"id": str(i)} for i in range(20)])])
    assert len({fold_of(s, 7) for s in singles}) == 1


def test_the_data_hash_depends_on_content_not_on_order(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", SINGLE), write(tmp_path / "b.jsonl", WINDOW)
    assert data_hash([a, b]) == data_hash([b, a]) != data_hash([a])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "bad.jsonl:1: no JSON"),
        ('{"colour": 1}', "bad.jsonl:1: unknown form"),
        ('{"question": "q", "label": "maybe"}', "bad.jsonl:1: label 'maybe'"),
        (json.dumps(WINDOW | {"questions": [{"indices": [9], "label": "yes"}]}), "bad.jsonl:1: "),
        (json.dumps(SINGLE) + "\nnonsense", "bad.jsonl:2: no JSON"),
    ],
)
def test_bad_data_is_one_line_that_names_the_place(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_samples([tmp_path / "bad.jsonl"])
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_axolotl_yaml_holds_the_articles_settings(tmp_path: Path) -> None:
    result = run("export.json", "--preset", "huixiangdou-cr", "--base", "Qwen/Qwen1.5-0.5B-Chat", "--out", "out", "--emit-axolotl", tmp_path / "a.yml")
    assert result.exit_code == 0, result.output
    lines = (tmp_path / "a.yml").read_text().splitlines()
    for line in (
        "lora_r: 64",
        "lora_alpha: 16",
        "lora_dropout: 0.05",
        "lora_target_linear: true",
        "learning_rate: 0.0002",
        "lr_scheduler: cosine",
        "warmup_steps: 10",
        "num_epochs: 1",
    ):
        assert line in lines
    assert {"micro_batch_size: 16", "sequence_len: 1400", "train_on_inputs: false", "    type: alpaca", "base_model: Qwen/Qwen1.5-0.5B-Chat", "bf16: true"} <= set(lines)


def test_flags_change_a_preset() -> None:
    settings = override(preset("huixiangdou-cr"), {"rank": 8, "loraplus_ratio": 16.0, "dora": True, "learning_rate": None})
    text = axolotl(settings, "b", [Path("d.json")], Path("o"))
    assert (settings.rank, settings.loop.learning_rate) == (8, 2e-4)
    assert "loraplus_lr_ratio: 16.0" in text
    assert "peft_use_dora: true" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--task", "sing"),
        ("--preset", "none"),
        ("--dropout", "2"),
        ("--method", "full", "--dora"),
        ("--schedule", "steps"),
        ("--rewrite-prompt", "dialogue-9"),
        ("--gate-prompt", "none"),
        ("--share", "x", "--head"),
    ],
)
def test_a_bad_flag_ends_with_code_2_and_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run(write(tmp_path / "s.jsonl", SINGLE), "--out", tmp_path / "o", *arguments)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert arguments[0] in result.stderr


def test_the_tracking_folder_holds_each_step_once_after_a_kill(tmp_path: Path) -> None:
    first = FolderTracker(tmp_path)
    for step in (1, 2, 3):
        first.log(step, {"loss": float(step)})
    with (tmp_path / "run.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    second = FolderTracker(tmp_path)
    for step in (3, 4):
        second.log(step, {"loss": -1.0})
    assert [json.loads(line)["step"] for line in (tmp_path / "run.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


class Service(types.ModuleType):
    """A tracking service as its package shows it."""

    def __init__(self, problem: Exception | None = None) -> None:
        super().__init__("wandb")
        self.problem, self.started, self.logged = problem, [], []  # type: ignore[var-annotated]

    def init(self, **settings: object) -> None:
        if self.problem:
            raise self.problem
        self.started.append(settings)

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.logged.append("end")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_training_continues_its_run_at_the_service_under_the_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    service = Service()
    monkeypatch.setitem(sys.modules, name, service)
    for step in (1, 2):
        trackers = Trackers(tmp_path / "gate-7" / "tracking", [name], {"task": "gate"})
        trackers.log(step, {"loss": 0.5})
        trackers.close()
    first, second = service.started
    assert first == second
    assert first["config"] == {"task": "gate"}
    assert first["resume"] == "allow"
    assert str(first["name"]).startswith("gate-7")
    assert service.logged == [(1, {"loss": 0.5}), "end", (2, {"loss": 0.5}), "end"]


def test_a_service_that_nobody_logged_in_to_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Service(RuntimeError("No API key configured.\nmore")))
    with pytest.raises(InputError, match=r"wandb does not start \(No API key configured\.\)") as caught:
        Trackers(tmp_path / "run" / "tracking", ["wandb"], {})
    assert "wandb login" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tracker_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tracker"):
        Trackers(tmp_path, ["mlflow"], {})


# --- the loop, on a model of a few thousand weights ---


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
    from dataclasses import replace

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


# --- adapters on disk ---


def saved(folder: Path, **kind: Any) -> tuple[Path, Path]:
    model = tiny(**kind)
    model.save_pretrained(folder / "adapter")
    model.get_base_model().config.save_pretrained(folder / "base")
    return folder / "adapter", folder / "base"


@pytest.mark.parametrize("rslora", [False, True])
def test_a_gguf_adapter_has_llama_cpps_names_order_and_scale(tmp_path: Path, rslora: bool) -> None:
    gguf, np = pytest.importorskip("gguf"), pytest.importorskip("numpy")
    from safetensors.numpy import load_file

    from scripts.training.lora_gguf import convert

    adapter, base = saved(tmp_path, rslora=rslora)
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    from safetensors.numpy import save_file

    tensors[name] = np.arange(32 * 4, dtype=np.float32).reshape(32, 4)
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert convert(adapter, base, tmp_path / "a.gguf", "f32") == 2 * 7 * 2
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert {"blk.0.attn_q.weight.lora_a", "blk.1.ffn_down.weight.lora_b"} <= set(found)
    assert [row[0] // 4 for row in found["blk.1.attn_q.weight.lora_b"][:8]] == [0, 4, 1, 5, 2, 6, 3, 7], "halves of a head interleaved"
    assert float(reader.fields["adapter.lora.alpha"].parts[-1][0]) == pytest.approx(16.0 if rslora else 8.0)


def test_a_gguf_adapter_comes_back_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    torch = pytest.importorskip("torch")
    from peft import PeftModel
    from safetensors.numpy import load_file

    from scripts.training.lora_gguf import as_folder, convert

    model = tiny()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    base = tiny().unload()
    base.save_pretrained(tmp_path / "base")
    convert(tmp_path / "adapter", tmp_path / "base", tmp_path / "a.gguf", "f32")
    restored = as_folder(tmp_path / "a.gguf", tmp_path / "base", tmp_path / "restored")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "adapter", restored))
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    ids = torch.arange(3, 9)[None]
    again = PeftModel.from_pretrained(base, str(restored), is_trainable=True)
    assert torch.allclose(again(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)


def test_a_gguf_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from safetensors.numpy import load_file, save_file

    from scripts.training.lora_gguf import convert, restore

    adapter, base = saved(tmp_path)
    tiny().unload().save_pretrained(base)
    convert(adapter, base, tmp_path / "a.gguf", "f32")
    weights = load_file(base / "model.safetensors")
    save_file({name: value[:, :4] if value.ndim == 2 else value for name, value in weights.items()}, base / "model.safetensors")
    with pytest.raises(InputError, match="no place in the base model"):
        restore(tmp_path / "a.gguf", base, tmp_path / "restored")
    (tmp_path / "broken.gguf").write_bytes(b"no gguf")
    with pytest.raises(InputError, match="cannot be read as GGUF"):
        restore(tmp_path / "broken.gguf", base, tmp_path / "restored")


def test_a_dora_adapter_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from scripts.training.lora_gguf import convert

    adapter, base = saved(tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(InputError, match="DoRA"):
        convert(adapter, base, tmp_path / "a.gguf")


@pytest.mark.parametrize(("key", "value", "said"), [("tokenizer_hash", "other", "another tokenizer"), ("shape", {"hidden_size": 1}, "does not match the base model")])
def test_an_adapter_of_another_base_is_refused(tmp_path: Path, key: str, value: Any, said: str) -> None:
    from scripts.training.base import IDENTITY, Base, check_adapter, identity_shape

    base = Base("here", tmp_path, None, (), 0, "same")
    (tmp_path / IDENTITY).write_text(json.dumps({"base": "there", "tokenizer_hash": "same", "shape": identity_shape({}), key: value}))
    with pytest.raises(InputError, match=said):
        check_adapter(tmp_path, base, {})


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    from scripts.training.base import base_folder

    with pytest.raises(InputError, match="no such file"):
        base_folder(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"config\.json"):
        base_folder(str(tmp_path))


def test_gate_examples_end_in_one_answer_token() -> None:
    from scripts.training.data import Sample
    from scripts.training.gate_task import GateTask

    def encode(text: str) -> tuple[int, ...]:
        return (1,) if text == "yes" else (2,) if text == "no" else tuple(ord(c) for c in text)

    samples: Sequence[Sample] = [Sample(str(i), f"它{i}呢", "", (), label, None, "g", "f", distractor=True) for i, label in enumerate(("yes", "no", "not_question"))]
    task = GateTask(samples, encode, (0,), "gate-1", 1, repeat=2)
    examples = task.epoch(0)
    assert [e.answer for e in examples] == [(1,), (1,), (2,), (2,), (2,), (2,)]
    assert all(e.choices == (1, 2) and e.prompt[0] == 0 for e in examples)
    assert task.epoch(0) == GateTask(samples, encode, (0,), "gate-1", 1, repeat=2).epoch(0), "the same in every process"
