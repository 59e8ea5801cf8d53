"""``scripts.train --head``: what it refuses before it computes, and what it leaves side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.encoder import file_version
from core.errors import InputError
from core.head import HeadWeights
from scripts.training import fit_gate as fitting
from scripts.training.data import Sample, data_hash
from scripts.training.fit_gate import FitSettings, fit_gate
from scripts.training.head import Features, HeadSettings, out_of_fold
from tests.scripts.test_train import SINGLE, write


def questions(path: Path, labels: Sequence[str] = ("yes", "no"), count: int = 40) -> Path:
    return write(path, *[SINGLE | {"id": f"q{n}", "question": f"冷吗{n}", "label": labels[n % len(labels)], "rewrite": None} for n in range(count)])


@pytest.mark.parametrize("kind", ["adapter", "encoder"])
def test_what_was_trained_with_another_split_of_the_same_files_is_not_calibrated_on_what_it_was_taught(tmp_path: Path, kind: str) -> None:
    data, run = questions(tmp_path / "q.jsonl"), tmp_path / "run"
    run.mkdir()
    figures: dict[str, Any] = {"data_hash": data_hash([data])}
    figures |= {"settings": {"validation": 0.11}} if kind == "adapter" else {"validation": 0.11}
    (run / "metrics.json").write_text(json.dumps(figures), encoding="utf-8")
    for name in ("adapter.gguf", "encoder.npz"):
        (run / name).write_bytes(b"")
    adapter, encoder = (run / "adapter.gguf", None) if kind == "adapter" else (None, run / "encoder.npz")
    with pytest.raises(InputError, match=r"--validation: 0\.1, but .* with 0\.11"):
        fit_gate([data], None, adapter, tmp_path / "out", FitSettings(validation=0.1, encoder=encoder))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("labels", "change", "named"),
    [
        (("no",), {}, "hold 0 questions that need resolution"),
        (("yes", "no"), {"validation": 0.0}, "--validation"),
        (("yes", "no"), {"shares": (("qq", 1.0),)}, "--share: qq=1 "),
        (("yes", "no"), {"shares": (("q", 0.0),)}, "--share: q=0 "),
        (("yes", "no"), {"shares": (("q", float("nan")),)}, "--share: q=nan "),
    ],
)
def test_what_cannot_be_fitted_is_one_line(tmp_path: Path, labels: Sequence[str], change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as caught:
        fit_gate([questions(tmp_path / "q.jsonl", labels)], None, None, tmp_path / "out", FitSettings(**{"validation": 0.3, **change}))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_out_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        fit_gate([questions(tmp_path / "q.jsonl")], None, None, tmp_path / "out", FitSettings(validation=0.3))


def test_authors_who_asked_in_one_manner_alone_can_be_left_out_of_the_folds() -> None:
    pytest.importorskip("sklearn")
    from scipy.sparse import csr_matrix

    data = Features(np.eye(6, 3, dtype=np.float32), csr_matrix(np.eye(6)), np.eye(6, 2, dtype=np.float32))
    labels = np.array([True] * 3 + [False] * 3)
    found = out_of_fold(data, labels, np.ones(6), np.array([0, 0, 0, 1, 1, 1]), HeadSettings(buckets=6))
    assert found.tolist() == [0.0] * 6


def test_the_encoder_stands_beside_the_head_whatever_it_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.npz").write_bytes(b"differences")
    monkeypatch.setattr(fitting, "_embedded", lambda texts, *rest: {text: np.full(4, len(text), dtype=np.float32) for text in texts})

    def judged(samples: Sequence[Sample], *rest: Any) -> list[float]:
        return [1.0 if sample.needs_resolution else -1.0 for sample in samples]

    monkeypatch.setattr(fitting, "lm_logits", judged)
    fit_gate([questions(tmp_path / "q.jsonl", count=80)], None, None, out, FitSettings(validation=0.3, encoder=out / "mine.npz"))
    assert HeadWeights.load(out / "head.npz").encoder == file_version(out / "encoder.npz") == file_version(out / "mine.npz")
