"""Measures. All are fractions 0..1; texts are compared after NFKC, case folding and removal (Chinese) or normalisation (English) of white space."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.grounding import normalise, squeeze
from scripts.resampling import weighted_auc, whole_set

_HAN = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of a yes/no decision."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @classmethod
    def of(cls, truth: Sequence[bool], predicted: Sequence[bool]) -> Confusion:
        pairs = list(zip(truth, predicted, strict=True))
        return cls(pairs.count((True, True)), pairs.count((False, True)), pairs.count((True, False)), pairs.count((False, False)))

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp else 0.0

    def as_dict(self) -> dict[str, float]:
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1}


def auc(truth: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Area under the ROC curve, ties counted half; None when all labels are equal."""
    if len(set(truth)) < 2:
        return None
    labels = np.array(truth, dtype=bool)
    return float(weighted_auc(labels, np.array(scores, dtype=np.float64), whole_set(len(labels)))[0])


def is_chinese(text: str, lang: str = "") -> bool:
    """By the record's own ``lang``, else by whether there is a Chinese character."""
    return lang.startswith("zh") if lang else bool(_HAN.search(text))


def tokens(text: str, chinese: bool) -> list[str]:
    """What BLEU and ROUGE count: characters of Chinese, words and punctuation marks of English."""
    return list(squeeze(text)) if chinese else re.findall(r"\w+(?:['’-]\w+)*|[^\w\s]", normalise(text))


def same_text(left: str, right: str, chinese: bool) -> bool:
    return squeeze(left) == squeeze(right) if chinese else " ".join(normalise(left).split()) == " ".join(normalise(right).split())


def bleu4(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU-4 of token lists, one reference each (sacrebleu, exponential smoothing)."""
    if not candidates:
        return 0.0
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(tokenize="none", force=True)
    return float(scorer.corpus_score([" ".join(c) for c in candidates], [[" ".join(r) for r in references]]).score) / 100.0


def rouge_l(candidate: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of the longest common subsequence (Lin 2004, beta 1)."""
    if not candidate or not reference:
        return 0.0
    row = [0] * (len(reference) + 1)
    for token in candidate:
        diagonal = 0
        for index, other in enumerate(reference, 1):
            above = row[index]
            row[index] = diagonal + 1 if token == other else max(above, row[index - 1])
            diagonal = above
    return 2 * row[-1] / (len(candidate) + len(reference))
