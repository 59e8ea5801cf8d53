"""``python -m scripts.train --head``: encoder head and calibration, fitted and written beside the adapter that they belong to."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.arrays import read_arrays
from core.encoder import Floats, TokenEncoder, file_version
from core.errors import InputError
from core.head import GateCalibration
from core.prompts import GATE_PROMPTS, gate_prompt_of
from scripts.arguments import make_folder
from scripts.training.data import Sample, contrast, data_hash, is_all_positive, load_samples
from scripts.training.head import HeadSettings, Judged, best_threshold, binary_metrics, features, fit_calibration, fit_head, head_logits, out_of_fold, sample_weights, weighted_f1
from scripts.training.splits import folds_of, split_samples

Progressed = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FitSettings:
    """``validation`` and ``seed`` must be those of the adapter's run: the calibration is fitted on its validation split, which the adapter never saw. ``shares`` weigh sources
    (by file stem) in the calibration; ``pairs`` is how many contrast samples a file of rewriting pairs gives (0: all);
    ``cascade_loss`` is how much F1 the cascade may lose; ``encoder`` is
    a file of differences of the packaged encoder (None: none)."""

    validation: float = 0.1
    seed: int = 1
    pairs: int = 1400
    prompt: str = "gate-1"
    cascade_loss: float = 0.005
    shares: tuple[tuple[str, float], ...] = ()
    version: str = "1"
    encoder: Path | None = None


def fit_gate(
    data: list[Path], gguf: Path | None, adapter: Path | None, out: Path, settings: FitSettings, on_progress: Progressed = lambda what, done, total: None
) -> dict[str, Any]:
    """Fit the head on the training part of ``data`` and the calibration on its validation part; write head.npz, calibration.json and head_metrics.json into ``out``. Returns the
    figures.

    ``gguf`` and ``adapter`` are what the gate serves (None: the packaged model, no adapter); ``settings.encoder`` is copied into ``out``. Raises InputError.
    """
    training, calibrating = split(load_samples(data), settings)
    samples = [*training, *calibrating]
    held = np.arange(len(samples)) >= len(training)
    digest = data_hash(data)
    _check(training, calibrating, settings)
    _check_parts([path for path in (adapter, settings.encoder) if path is not None], digest, settings.validation)
    make_folder(out)
    labels = np.array([s.needs_resolution for s in samples])
    head_settings = HeadSettings(seed=settings.seed)
    vectors = _embedded([" ".join(s.question.split()) for s in samples], out / "embeddings.npz", settings.encoder, on_progress)
    raw = features([s.question for s in samples], vectors.__getitem__, head_settings.buckets)
    inside, outside = np.flatnonzero(~held), np.flatnonzero(held)
    weights = sample_weights(training, dict(settings.shares))
    head = fit_head(raw.rows(inside), labels[inside], weights, head_settings, f"head-{settings.version}", digest)
    if settings.encoder is not None:
        head = replace(head, encoder=file_version(settings.encoder))
        if settings.encoder.resolve() != (out / "encoder.npz").resolve():
            shutil.copyfile(settings.encoder, out / "encoder.npz")
    folds = np.array(folds_of(training, 7))
    oof = out_of_fold(raw.rows(inside), labels[inside], weights, folds, head_settings)
    lm = lm_logits(calibrating, gguf, adapter, settings.prompt, lambda done, total: on_progress("language model", done, total))
    names = list(dict.fromkeys(s.source for s in calibrating))
    judged = Judged(
        head=head_logits(head, raw.rows(outside)),
        lm=np.array(lm),
        characters=np.array([len(s.question) for s in calibrating]),
        labels=labels[outside],
        weights=sample_weights(calibrating, dict(settings.shares)),
        sources=np.array([names.index(s.source) for s in calibrating]),
    )
    identity = {"prompt": settings.prompt, "version": settings.version, "data_hash": digest, "head_version": head.version, "adapter_hash": file_hash(adapter) if adapter else ""}
    calibration, figures = fit_calibration(judged, loss=settings.cascade_loss, identity=identity)
    figures |= {"head_out_of_fold": _by_source(training, oof, labels[inside]), "calibration_by_source": _calibrated_by_source(calibrating, calibration, judged)}
    figures |= {"baselines": _baselines(judged), "data_hash": digest}
    head.save(out / "head.npz")
    calibration.save(out / "calibration.json")
    (out / "head_metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def _check(training: Sequence[Sample], calibrating: Sequence[Sample], settings: FitSettings) -> None:
    """Raise InputError for what nothing can be fitted on."""
    for what, part in (("to learn from", training), ("kept for the calibration", calibrating)):
        yes = sum(s.needs_resolution for s in part)
        if not 0 < yes < len(part):
            problem = f"hold {yes} questions that need resolution and {len(part) - yes} that do not {what}"
            raise InputError("training data", problem, "Both kinds are needed: give more data, or another --validation.")
    stems = sorted({s.source for s in (*training, *calibrating)})
    for stem, weight in settings.shares:
        if stem not in stems or not 0 < weight < math.inf:
            raise InputError("--share", f"{stem}={weight:g} names no file that the gate learns from, or no positive number", f"These can be named: {', '.join(stems)}.")


def _check_parts(parts: Sequence[Path], digest: str, validation: float) -> None:
    """Raise InputError where an adapter or encoder is missing, or was trained on these files with another split: it was taught some of what the calibration is fitted on."""
    for part in parts:
        if not part.is_file():
            raise InputError(str(part), "no such file", "Give what scripts.train or scripts.training.encoder wrote.")
        try:
            told = json.loads((part.parent / "metrics.json").read_text(encoding="utf-8"))
            used = float((told if part.suffix == ".npz" else told["settings"])["validation"])
            same_data = told["data_hash"] == digest
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it does not tell
        if same_data and used != validation:
            problem = f"{validation:g}, but {part} was trained on these files with {used:g}, and was taught some of what the calibration would be fitted on"
            raise InputError("--validation", problem, f"Give --validation {used:g}.")


def split(samples: Sequence[Sample], settings: FitSettings) -> tuple[list[Sample], list[Sample]]:
    """Labelled samples of the training and of the validation part, which are those of the adapter's run. Files of rewriting pairs alone give contrast samples, made within each
    part, as there."""
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    halves = split_samples(samples, settings.validation)
    for source in dict.fromkeys(s.source for s in samples):
        taught, held = ([s for s in half if s.source == source and s.label and not s.prompt] for half in halves)
        positive = is_all_positive([*taught, *held])
        # The question filter stands before the gate: what is no question does not reach it.
        groups = (taught, [s for s in held if s.label != "not_question"])
        for part, group, share in zip(parts, groups, (1 - settings.validation, settings.validation), strict=True):
            part += contrast(group, settings.seed)[: round(settings.pairs * share) if settings.pairs else None] if positive else group
    return parts


def _embedded(texts: Sequence[str], path: Path, encoder: Path | None, on_progress: Progressed) -> dict[str, Floats]:
    """Embedding of each text, kept in ``path`` from call to call: a second fit starts where a first one stopped."""
    version = file_version(encoder) if encoder is not None else ""
    wanted = {_key(text, version): text for text in texts}
    known: dict[str, Floats] = {}
    if path.exists():
        file = read_arrays(path, "embeddings of a call before", "Delete it: they are computed anew.")
        known = dict(zip(file["keys"].tolist(), file["vectors"], strict=True))
    missing = [key for key in wanted if key not in known]
    loaded = TokenEncoder.load(encoder) if missing else None
    for index, key in enumerate(missing, 1):
        assert loaded is not None
        known[key] = loaded.embed(wanted[key])
        on_progress("encoder", index, len(missing))
        if index % 1000 == 0 or index == len(missing):
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, keys=np.array(list(known)), vectors=np.stack(list(known.values())))
    return {text: known[key] for key, text in wanted.items()}


def _key(text: str, encoder: str) -> str:
    return hashlib.sha256(f"{encoder} {text}".encode("utf-8", "surrogatepass")).hexdigest()[:24]


def lm_logits(samples: Sequence[Sample], gguf: Path | None, adapter: Path | None, version: str, on_progress: Callable[[int, int], None] = lambda done, total: None) -> list[float]:
    """Log-odds of the two answers for each sample, by llama.cpp on the very path that serves: another split of batches moves them by some 0.3."""
    from core.gates.llama_engine import LlamaEngine
    from scripts.training.base import packaged_gguf

    form = GATE_PROMPTS[version]
    engine = LlamaEngine(gguf or packaged_gguf(), adapter)
    try:
        yes, no = (engine.tokenize(answer)[0] for answer in form.answers)
        found = []
        for index, sample in enumerate(samples):
            prompt = gate_prompt_of(sample.question, [line.text for line in sample.context], (), version)
            logs = engine.next_logprobs([*engine.tokenize(prompt.fixed, start=True), *engine.tokenize(prompt.context), *engine.tokenize(prompt.tail)])
            found.append(float(logs[yes] - logs[no]))
            on_progress(index + 1, len(samples))
    finally:
        engine.close()
    return found


def file_hash(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _by_source(samples: Sequence[Sample], logits: Any, labels: Any) -> dict[str, dict[str, float]]:
    found = {}
    for source in dict.fromkeys(s.source for s in samples):
        rows = np.array([s.source == source for s in samples])
        found[source] = binary_metrics(list(logits[rows]), list(labels[rows])) | {"questions": int(rows.sum())}
    return found


def _calibrated_by_source(samples: Sequence[Sample], calibration: GateCalibration, judged: Judged) -> dict[str, dict[str, float]]:
    found = {}
    joint = np.array([calibration.combine(h, m, int(n)) for h, m, n in zip(judged.head, judged.lm, judged.characters, strict=True)])
    for source in dict.fromkeys(s.source for s in samples):
        rows = np.array([s.source == source for s in samples])
        found[source] = binary_metrics(list(joint[rows]), list(judged.labels[rows]), calibration.threshold) | {"questions": int(rows.sum())}
    return found


def _baselines(judged: Judged) -> dict[str, dict[str, float]]:
    """What needs no model: always yes, and the length of the question."""
    shortness = 1 / (1 + judged.characters.astype(float))
    always = np.ones(len(judged.labels), dtype=bool)
    threshold = best_threshold(shortness / shortness.max(), judged.labels, judged.weights)
    return {
        "always_yes": {"f1": round(weighted_f1(always, judged.labels, np.ones(len(always))), 4)},
        "length": binary_metrics(list(shortness / shortness.max()), list(judged.labels), threshold),
    }
