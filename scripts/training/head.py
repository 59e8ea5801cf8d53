"""Fitting of the encoder head and of the calibration that joins it with the language model.

The head is a logistic regression over standardised blocks (embedding, n-grams, surface features). All figures that choose something come from predictions out of fold, with
authors kept together; the
calibration is fitted on questions that neither head nor language model was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.encoder import Floats
from core.head import GateCalibration, HeadWeights, Logistic, expected_calibration_error, ngram_indices, surface_features
from scripts.training.data import Sample

Matrix = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Inverse of the L2 penalty of a calibration curve, and the folds in which its error is measured.
_C = 10.0
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """``buckets`` of the hashed n-grams; ``c`` the inverse of the L2 penalty; ``*_gain`` how loud a block is (0 leaves it out), that is, how weakly its weights are penalised."""

    buckets: int = 1 << 15
    c: float = 0.01
    embedding_gain: float = 1.0
    ngram_gain: float = 25.0
    surface_gain: float = 1.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Features:
    """Raw features of a list of texts: ``embedding`` (n, dimension), ``ngrams`` sparse (n, buckets), ``surface`` (n, flags)."""

    embedding: Floats
    ngrams: Any
    surface: Floats

    def rows(self, index: NDArray[np.int64]) -> Features:
        return Features(self.embedding[index], self.ngrams[index], self.surface[index])


def features(texts: Sequence[str], embed: Callable[[str], Floats], buckets: int) -> Features:
    """Features of ``texts`` as :class:`core.head.HeadWeights` computes them."""
    from scipy.sparse import csr_matrix

    shown = [" ".join(text.split()) for text in texts]
    values, columns, starts = list[float](), list[int](), [0]
    for text in shown:
        grams = ngram_indices(text, buckets)
        columns += grams.keys()
        values += grams.values()
        starts.append(len(columns))
    matrix = csr_matrix((np.array(values), np.array(columns), np.array(starts)), shape=(len(shown), buckets))
    return Features(np.stack([embed(text) for text in shown]), matrix, np.stack([surface_features(text) for text in shown]))


def fit_head(data: Features, labels: Flags, weights: Matrix, settings: HeadSettings, version: str = "", data_hash: str = "") -> HeadWeights:
    """A head fitted on all rows; ``weights`` (n) multiply their losses."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import LogisticRegression

    mean, scale = data.embedding.mean(0), data.embedding.std(0) + 1e-6
    surface_mean, surface_scale = data.surface.mean(0), data.surface.std(0) + 1e-6
    blocks = [
        csr_matrix(settings.embedding_gain * (data.embedding - mean) / scale),
        settings.ngram_gain * data.ngrams,
        csr_matrix(settings.surface_gain * (data.surface - surface_mean) / surface_scale),
    ]
    model = LogisticRegression(C=settings.c, max_iter=2000, random_state=settings.seed)
    model.fit(hstack(blocks).tocsr(), labels, sample_weight=weights)
    found = model.coef_[0].astype(np.float32)
    first, second = data.embedding.shape[1], data.embedding.shape[1] + data.ngrams.shape[1]
    return HeadWeights(
        embedding=found[:first] * np.float32(settings.embedding_gain),
        embedding_mean=mean.astype(np.float32),
        embedding_scale=scale.astype(np.float32),
        ngrams=found[first:second] * np.float32(settings.ngram_gain),
        surface=found[second:] * np.float32(settings.surface_gain),
        surface_mean=surface_mean.astype(np.float32),
        surface_scale=surface_scale.astype(np.float32),
        bias=float(model.intercept_[0]),
        version=version,
        data_hash=data_hash,
    )


def head_logits(head: HeadWeights, data: Features) -> Matrix:
    """Logits of all rows, (n,): the same numbers as :meth:`core.head.HeadWeights.logit`, in one product."""
    score = ((data.embedding - head.embedding_mean) / head.embedding_scale) @ head.embedding + data.ngrams @ head.ngrams
    found: Matrix = np.asarray(score + ((data.surface - head.surface_mean) / head.surface_scale) @ head.surface + head.bias, dtype=np.float64)
    return found


def out_of_fold(data: Features, labels: Flags, weights: Matrix, folds: NDArray[np.int64], settings: HeadSettings) -> Matrix:
    """Logit of each row by a head that saw no row of its fold; 0 where the other folds are all of one label."""
    found = np.zeros(len(labels))
    for fold in np.unique(folds):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if len(set(labels[outside].tolist())) < 2:
            continue
        head = fit_head(data.rows(outside), labels[outside], weights[outside], settings)
        found[inside] = head_logits(head, data.rows(inside))
    return found


def sample_weights(samples: Sequence[Sample], shares: dict[str, float]) -> Matrix:
    """Weights that give each source its share of the loss; a source without a share counts by its size."""
    sources = [s.source for s in samples]
    counts = {source: sources.count(source) for source in set(sources)}
    raw = np.array([shares.get(source, 1.0) * (len(samples) / counts[source] if source in shares else 1.0) for source in sources])
    normalised: Matrix = raw * len(raw) / raw.sum()
    return normalised


@dataclass(frozen=True, slots=True)
class Judged:
    """Held-out questions with the logits of both judges. ``weights`` balance the sources, which ``sources`` names by number."""

    head: Matrix
    lm: Matrix
    characters: NDArray[np.int64]
    labels: Flags
    weights: Matrix
    sources: NDArray[np.int64]


def fit_calibration(judged: Judged, *, loss: float, identity: dict[str, str]) -> tuple[GateCalibration, dict[str, Any]]:
    """Platt scaling (logistic regression) of both judges together and of each alone, the threshold of best F1, and the margins between which the head asks the language model.

    The margins are the tightest ones at which the cascade's F1 falls by at most ``loss`` against asking the language model always,
    over all questions and in each source that has 100 of them. Returns the calibration and its figures: those of
    "cascade_crossed" are the cascade's where no curve was fitted with the question that it judges (threshold and margins were).
    """
    both = _logistic(judged, head=True, lm=True)
    head_only = _logistic(judged, head=True, lm=False)
    lm_only = _logistic(judged, head=False, lm=True)
    joint = _probabilities(both, judged)
    threshold = best_threshold(joint, judged.labels, judged.weights)
    alone = _probabilities(head_only, judged)
    low, high = _margins(alone, joint, threshold, judged, loss)
    calibration = GateCalibration(both, head_only, lm_only, threshold=round(threshold, 4), sure_low=low, sure_high=high, **_identity(identity))
    settled = (alone <= low) | (alone >= high)
    cascade = np.where(settled, alone, joint)
    figures = {
        "questions": len(judged.labels),
        "both": _report(joint, threshold, judged),
        "head_only": _report(alone, threshold, judged),
        "lm_only": _report(_probabilities(lm_only, judged), threshold, judged),
        "cascade": _report(cascade, threshold, judged) | {"settled_by_head": round(float(np.average(settled, weights=judged.weights)), 4)},
    }
    if min(judged.labels.sum(), (~judged.labels).sum()) >= _FOLDS:
        joint, alone = (_crossed(judged, lm=lm) for lm in (True, False))
        figures["cascade_crossed"] = _report(np.where((alone <= low) | (alone >= high), alone, joint), threshold, judged)
    return calibration, figures


def _crossed(judged: Judged, *, lm: bool) -> Matrix:
    """Probabilities by curves that were fitted without the question itself, in five folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    inputs, model = np.column_stack(list(_inputs(judged, head=True, lm=lm).values())), LogisticRegression(C=_C, max_iter=1000)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=1)
    found: Matrix = cross_val_predict(model, inputs, judged.labels, cv=folds, method="predict_proba", params={"sample_weight": judged.weights})[:, 1]
    return found


def _identity(values: dict[str, str]) -> dict[str, Any]:
    return {key: values.get(key, "") for key in ("prompt", "version", "data_hash", "head_version", "adapter_hash")}


def _logistic(judged: Judged, *, head: bool, lm: bool) -> Logistic:
    from sklearn.linear_model import LogisticRegression

    used = _inputs(judged, head=head, lm=lm)
    model = LogisticRegression(C=_C, max_iter=1000).fit(np.column_stack(list(used.values())), judged.labels, sample_weight=judged.weights)
    return Logistic(bias=round(float(model.intercept_[0]), 5), **{name: round(float(value), 5) for name, value in zip(used, model.coef_[0], strict=True)})


def _inputs(judged: Judged, *, head: bool, lm: bool) -> dict[str, Matrix]:
    return {**({"head": judged.head} if head else {}), **({"lm": judged.lm} if lm else {})}


def _probabilities(logistic: Logistic, judged: Judged) -> Matrix:
    return np.array([logistic.probability(h, m, int(n)) for h, m, n in zip(judged.head, judged.lm, judged.characters, strict=True)])


def best_threshold(probabilities: Matrix, labels: Flags, weights: Matrix) -> float:
    """The threshold of best weighted F1 in 0.3 to 0.7: the middle of the widest run within 0.002 of the best, so that noise does not choose it."""
    grid = np.linspace(0.3, 0.7, 81)
    scores = np.array([weighted_f1(probabilities >= t, labels, weights) for t in grid])
    good = np.flatnonzero(scores >= scores.max() - 0.002)
    runs = np.split(good, np.flatnonzero(np.diff(good) > 1) + 1)
    widest = max(runs, key=len)
    return float(grid[widest].mean())


def _margins(alone: Matrix, joint: Matrix, threshold: float, judged: Judged, loss: float) -> tuple[float, float]:
    """(sure_low, sure_high) that settle the most questions at an F1 not more than ``loss`` below the full combination's."""
    full = weighted_f1(joint >= threshold, judged.labels, judged.weights)
    best, chosen = -1.0, (0.0, 1.0)
    for low in (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.25):
        for high in (1.0, 0.99, 0.98, 0.97, 0.95, 0.92, 0.9, 0.85, 0.8, 0.75):
            settled = (alone <= low) | (alone >= high)
            share = float(np.average(settled, weights=judged.weights))
            score = weighted_f1(np.where(settled, alone, joint) >= threshold, judged.labels, judged.weights)
            if score >= full - loss and share > best and _loses_nowhere(settled, alone, joint, threshold, judged, loss):
                best, chosen = share, (low, high)
    return chosen


def _loses_nowhere(settled: Flags, alone: Matrix, joint: Matrix, threshold: float, judged: Judged, loss: float) -> bool:
    """Whether the cascade keeps its F1 in every source of 100 questions and more: an easy source must not pay for a hard one."""
    cascade = np.where(settled, alone, joint) >= threshold
    for source in np.unique(judged.sources):
        rows = judged.sources == source
        labels, weights = judged.labels[rows], judged.weights[rows]
        if rows.sum() >= 100 and weighted_f1(cascade[rows], labels, weights) < weighted_f1((joint >= threshold)[rows], labels, weights) - loss:
            return False
    return True


def weighted_f1(said: Flags, labels: Flags, weights: Matrix) -> float:
    """F1 of the positives, with a weight for each question."""
    hit = float(weights[said & labels].sum())
    wrong, missed = float(weights[said & ~labels].sum()), float(weights[~said & labels].sum())
    return 2 * hit / max(1e-12, 2 * hit + wrong + missed)


def _report(probabilities: Matrix, threshold: float, judged: Judged) -> dict[str, float]:
    found = binary_metrics(list(probabilities), list(judged.labels), threshold)
    return found | {"ece": round(expected_calibration_error(list(probabilities), list(judged.labels)), 4)}


def binary_metrics(scores: Sequence[float], labels: Sequence[bool], threshold: float = 0.0) -> dict[str, float]:
    """Precision, recall, F1 at ``threshold`` and AUC of scores for boolean labels; AUC 0.5 when one class is missing."""
    from sklearn.metrics import roc_auc_score

    said, truth = np.array(scores) >= threshold, np.array(labels, dtype=bool)
    hit = int((said & truth).sum())
    precision, recall = hit / max(1, int(said.sum())), hit / max(1, int(truth.sum()))
    auc = float(roc_auc_score(truth, scores)) if truth.any() and not truth.all() else 0.5
    return {"precision": round(precision, 4), "recall": round(recall, 4), "f1": round(2 * precision * recall / max(1e-12, precision + recall), 4), "auc": round(auc, 4)}
