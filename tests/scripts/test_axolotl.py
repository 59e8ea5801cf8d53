"""``--emit-axolotl``: the same run on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import InputError
from scripts.training.axolotl import axolotl
from scripts.training.data import load_samples
from scripts.training.settings import override, preset
from tests.scripts.test_train import SINGLE, run, write


def emitted(values: dict[str, Any], data: Path = Path("d.json")) -> dict[str, Any]:
    settings = override(preset("default"), values)
    found: dict[str, Any] = yaml.safe_load(axolotl(settings, "b", [data], Path("o")))
    return found


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
    assert {"micro_batch_size: 16", "sequence_len: 1400", "train_on_inputs: false", "base_model: Qwen/Qwen1.5-0.5B-Chat", "bf16: true"} <= set(lines)


def test_flags_change_a_preset() -> None:
    settings = override(preset("huixiangdou-cr"), {"rank": 8, "loraplus_ratio": 16.0, "dora": True, "learning_rate": None})
    text = axolotl(settings, "b", [Path("d.json")], Path("o"))
    assert (settings.rank, settings.loop.learning_rate) == (8, 2e-4)
    assert "loraplus_lr_ratio: 16.0" in text
    assert "peft_use_dora: true" in text


def test_its_prompts_are_those_that_are_trained_here(tmp_path: Path) -> None:
    records = [{"instruction": "判断", "input": "问题", "output": "B"}, {"instruction": "判断", "input": "", "output": "A"}]
    data = tmp_path / "a.json"
    data.write_text(json.dumps(records), encoding="utf-8")
    (dataset,) = emitted({}, data)["datasets"]
    form = dataset["type"]
    assert {form[f"field_{name}"] for name in ("instruction", "input", "output")} == set(records[0])
    there = [(form["format"] if record["input"] else form["no_input_format"]).format(**record) for record in records]
    assert there == [sample.prompt for sample in load_samples([data])]


def test_early_stopping_saves_where_it_evaluates() -> None:
    found = emitted({"validation": 0.1, "patience": 3, "eval_every": 40, "save_every": 100})
    assert (found["eval_steps"], found["early_stopping_patience"], found["save_steps"]) == (40, 3, 80)
    assert "early_stopping_patience" not in emitted({"validation": 0.0, "patience": 3})
    assert emitted({"save_every": 0})["save_strategy"] == "no"


@pytest.mark.parametrize(("values", "flag"), [({"alpha": 1.5}, "--alpha"), ({"label_smoothing": 0.1}, "--label-smoothing")])
def test_what_axolotl_does_not_have_is_refused(values: dict[str, Any], flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        emitted(values)


def test_data_of_another_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scripts\.export --format alpaca") as caught:
        emitted({}, write(tmp_path / "s.jsonl", SINGLE))
    assert "\n" not in str(caught.value)


def test_a_yaml_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    result = run("export.json", "--emit-axolotl", tmp_path / "none" / "a.yml")
    assert result.exit_code == 2
    assert "a.yml: cannot be written" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
