"""A whole training on a tiny real model: what it keeps, tells, continues and refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

for module in ("torch", "transformers", "peft", "gguf", "sklearn"):
    pytest.importorskip(module, reason=f"{module} is not installed")

from core.errors import InputError  # noqa: E402 - after the skips
from scripts.training.base import load_base  # noqa: E402
from scripts.training.data import data_hash, load_samples  # noqa: E402
from scripts.training.loop import Progress  # noqa: E402
from scripts.training.run import Examples, Outcome, _hashes, train  # noqa: E402
from scripts.training.settings import TrainSettings, override, preset  # noqa: E402
from tests.scripts.test_cycle import labelled  # noqa: E402
from tests.scripts.test_splits import windows  # noqa: E402
from tests.scripts.test_train import run, write  # noqa: E402
from tests.scripts.test_training_loop import KilledError  # noqa: E402
from tests.scripts.tiny_model import write_tiny_gguf  # noqa: E402

SETTINGS = override(preset("smoke"), {"max_steps": 4, "save_every": 2, "eval_every": 2, "batch_size": 4, "rank": 4, "threads": 1, "validation": 0.25, "seed": 1})


@dataclass(frozen=True, slots=True)
class Scene:
    """Files to train with, and a first training of them in ``folder/whole``."""

    folder: Path
    base: Path
    data: Path
    whole: Outcome

    def train(self, out: Path, settings: TrainSettings = SETTINGS, init_adapter: Path | None = None, kill_at: int = 0) -> Outcome:
        return _train(self.base, self.data, out, settings, init_adapter, kill_at)


def _train(base: Path, data: Path, out: Path, settings: TrainSettings = SETTINGS, init_adapter: Path | None = None, kill_at: int = 0) -> Outcome:
    def on_progress(progress: Progress) -> None:
        if progress.step == kill_at:
            raise KilledError

    return train([data], str(base), out, settings, on_progress, init_adapter)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("run")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    base, data = write_tiny_gguf(folder / "tiny.gguf"), write(folder / "data.jsonl", *labelled(0, 24))
    yield Scene(folder, base, data, _train(base, data, folder / "whole"))
    patch.undo()


def test_a_run_that_was_killed_tells_what_an_uninterrupted_one_tells_and_once_more_changes_nothing(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        scene.train(tmp_path, kill_at=3)
    resumed = scene.train(tmp_path).metrics
    untimed = [{name: value for name, value in metrics.items() if name != "seconds"} for metrics in (resumed, scene.whole.metrics)]
    assert untimed[0] == untimed[1]
    assert scene.train(tmp_path).metrics == resumed


def test_metrics_and_card_hold_the_gate_before_and_after(scene: Scene) -> None:
    metrics = scene.whole.metrics
    assert metrics["gate_before"].keys() == metrics["gate"].keys() == {"precision", "recall", "f1", "auc"}
    assert metrics["gguf"] == "adapter.gguf"
    card = (scene.whole.folder / "README.md").read_text(encoding="utf-8")
    assert f"| gate: auc | {metrics['gate_before']['auc']:.4f} | {metrics['gate']['auc']:.4f} |" in card


@pytest.mark.parametrize(("change", "named"), [({"rank": 2}, "rank"), ({"learning_rate": 1e-3}, "learning_rate")])
def test_a_folder_of_another_run_is_refused(scene: Scene, change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=rf"other settings or data \({named}\)"):
        scene.train(scene.whole.folder, override(SETTINGS, change))


def test_a_folder_of_a_run_from_another_base_or_adapter_is_refused(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"other settings or data \(init_adapter\)"):
        scene.train(scene.whole.folder, init_adapter=scene.whole.folder / "adapter.gguf")
    with pytest.raises(InputError, match=r"other settings or data \(base\)"):
        _train(write_tiny_gguf(tmp_path / "other.gguf", seed=2), scene.data, scene.whole.folder)


def test_two_bases_of_one_name_are_two(scene: Scene, tmp_path: Path) -> None:
    first = shutil.copytree(load_base(str(scene.base)).folder, tmp_path / "a" / "model")
    second = shutil.copytree(load_base(str(write_tiny_gguf(tmp_path / "other.gguf", seed=3))).folder, tmp_path / "b" / "model")
    with pytest.raises(KilledError):
        _train(first, scene.data, tmp_path / "out", kill_at=3)
    with pytest.raises(InputError, match=r"other settings or data \(base\)"):
        _train(second, scene.data, tmp_path / "out")
    _train(first, scene.data, tmp_path / "out")
    (second / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"b/model: its weights cannot be loaded") as caught:
        _train(second, scene.data, tmp_path / "none")
    assert "\n" not in str(caught.value)


def test_metrics_name_all_files_also_those_of_one_name(scene: Scene, tmp_path: Path) -> None:
    other = tmp_path / "data.jsonl"
    other.write_text(scene.data.read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    assert _hashes([scene.data, other, other]) == {str(path): data_hash([path]) for path in (scene.data, other)}
    assert _hashes([scene.data]) == {"data.jsonl": data_hash([scene.data])}


def test_metrics_and_card_tell_the_settings_of_the_adapter_that_is_gone_on_with(scene: Scene, tmp_path: Path) -> None:
    asked = override(SETTINGS, {"rank": 9, "alpha": 3.0, "max_steps": 1})
    for number, adapter in enumerate(("adapter", "adapter.gguf")):
        outcome = scene.train(tmp_path / str(number), asked, scene.whole.folder / adapter)
        assert (outcome.metrics["settings"]["rank"], outcome.metrics["settings"]["alpha"]) == (4, 16)
        assert "| rank | 4 |" in (outcome.folder / "README.md").read_text(encoding="utf-8")


def test_full_fine_tuning_in_bfloat16_keeps_float32_weights(scene: Scene, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    scene.train(tmp_path, override(SETTINGS, {"method": "full", "dtype": "bfloat16", "max_steps": 1, "learning_rate": 1e-6}))
    before = load_file(load_base(str(scene.base)).folder / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert {value.dtype for value in after.values()} == {torch.float32}
    name = "model.layers.0.mlp.up_proj.weight"
    assert (before[name] != after[name]).float().mean() > 0.5, "small steps are not rounded away"


def test_alpaca_answers_end_with_the_end_of_text(scene: Scene, tmp_path: Path) -> None:
    data = tmp_path / "a.json"
    data.write_text(json.dumps([{"instruction": f"判断{n}", "input": "", "output": "B"} for n in range(40)]), encoding="utf-8")
    base = load_base(str(scene.base))
    examples = Examples(load_samples([data]), base, override(preset("default"), {}))
    assert examples.validation
    assert {example.answer for example in (*examples.epoch(0), *examples.validation)} == {(*base.encode("B"), base.tokenizer.eos_token_id)}


def test_the_windows_of_one_author_can_be_trained_with_default_settings(scene: Scene, tmp_path: Path) -> None:
    examples = Examples(load_samples([write(tmp_path / "w.jsonl", *windows("mygroup", 50))]), load_base(str(scene.base)), TrainSettings())
    assert examples.first_epoch > len(examples.validation) > 0


def test_what_leaves_nothing_to_learn_is_one_line_that_names_the_way_out(scene: Scene, tmp_path: Path) -> None:
    base, samples = load_base(str(scene.base)), load_samples([scene.data])
    with pytest.raises(InputError, match="--validation 0"):
        Examples(samples[:1], base, TrainSettings())
    with pytest.raises(InputError, match="--sequence"):
        Examples(samples, base, override(TrainSettings(), {"sequence": 16}))


def test_what_is_too_long_is_counted_once(scene: Scene) -> None:
    base, samples = load_base(str(scene.base)), load_samples([scene.data])
    lengths = sorted(len(example) for example in Examples(samples, base, TrainSettings(validation=0.0)).epoch(0))
    longest = lengths[len(lengths) // 2]
    examples = Examples(samples, base, override(TrainSettings(), {"validation": 0.0, "sequence": longest}))
    for epoch in (1, 0, 1):
        examples.epoch(epoch)
    assert examples.too_long == sum(length > longest for length in lengths)


def test_bad_data_leave_no_folder(tmp_path: Path) -> None:
    result = run(write(tmp_path / "bad.jsonl", {"colour": 1}), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
