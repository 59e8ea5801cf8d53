"""Ranking candidate antecedents with shipped gradient-boosted trees, and how sure the first one is.

Two gradient-boosted models in LightGBM's text format, evaluated with numpy alone: ``lines.txt`` gives each earlier line the probability that it
names the antecedent, ``terms.txt`` scores each candidate
term (lambdarank). ``meta.json`` holds the logistic model of P(the first term is right), word frequencies, threshold, version and the hash of the training data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.antecedent_features import LINE_FEATURES, TERM_FEATURES, Embed, Scene, line_features, term_features, terms_of
from core.antecedents import Term, tokenise
from core.errors import InputError
from core.grounding import squeeze
from core.messages import Question

Array = NDArray[np.float64]
RANKER_FORMAT = 1

# fmt: off
CONFIDENCE_COLUMNS = [
    "tag_latin", "length", "n_tokens", "rarity", "best_distance", "question_length", "question_pronoun",
    "question_has_head", "question_latin", "rank_rivals_nearer", "n_mentions", "latin_in_window", "reach_max",
    "similarity_max", "in_askers_line", "score_max_share", "in_quote", "asker_mentioned", "partner_mentioned",
    "rivals_in_line",
]
# fmt: on
CONFIDENCE_FEATURES = (
    *["score", "margin", "share_of_kin", "share_of_lines", "share", "line_first", "line_margin", "line_three", "line_of_term", "line_share", "n_terms", "n_lines"],
    *CONFIDENCE_COLUMNS,
)

_NAN_MISSING, _ZERO_MISSING, _DEFAULT_LEFT, _CATEGORICAL = 8, 4, 2, 1


@dataclass(frozen=True, slots=True)
class _Tree:
    feature: NDArray[np.int64]
    threshold: Array
    decision: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    leaf: Array

    def __call__(self, rows: Array) -> Array:
        if not len(self.feature):
            return np.full(len(rows), self.leaf[0])
        node = np.zeros(len(rows), dtype=np.int64)
        active = np.arange(len(rows))
        while len(active):
            at = node[active]
            value = rows[active, self.feature[at]]
            missing = np.isnan(value)
            value = np.where(missing & ((self.decision[at] & _NAN_MISSING) == 0), 0.0, value)
            default = ((self.decision[at] & _NAN_MISSING) != 0) & missing
            goes_left = np.where(default, (self.decision[at] & _DEFAULT_LEFT) != 0, value <= self.threshold[at])
            node[active] = np.where(goes_left, self.left[at], self.right[at])
            active = active[node[active] >= 0]
        return self.leaf[~node]


class Trees:
    """A LightGBM model in text form without categorical features. Calling it gives raw scores, or probabilities where it was trained as a binary classifier."""

    def __init__(self, text: str, source: str = "model") -> None:
        head, *blocks = text.split("\nTree=")
        self.binary = "objective=binary" in head
        try:
            self.names = next(line for line in head.splitlines() if line.startswith("feature_names=")).partition("=")[2].split()
            self._trees = [_parse_tree(block) for block in blocks]
        except (StopIteration, KeyError, ValueError) as error:
            raise InputError(source, f"not a LightGBM text model ({error})", "Train it again: python -m scripts.training.ranker") from None

    def __call__(self, rows: Array) -> Array:
        total = np.zeros(len(rows))
        for tree in self._trees:
            total += tree(rows)
        return 1.0 / (1.0 + np.exp(-total)) if self.binary else total


def _parse_tree(block: str) -> _Tree:
    fields = dict(line.split("=", 1) for line in block.split("\n\n", 1)[0].splitlines() if "=" in line)
    decision = np.array(fields.get("decision_type", "").split(), dtype=np.int64)
    if (decision & _CATEGORICAL).any() or (decision & _ZERO_MISSING).any():
        raise ValueError("categorical features and missing zeros are not supported")
    ints = {key: np.array(fields.get(key, "").split(), dtype=np.int64) for key in ("split_feature", "left_child", "right_child")}
    return _Tree(
        ints["split_feature"],
        np.array(fields.get("threshold", "").split(), dtype=float),
        decision,
        ints["left_child"],
        ints["right_child"],
        np.array(fields["leaf_value"].split(), dtype=float),
    )


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates, best first, with their shares (softmax of the scores, sum 1); ``confidence`` is P(the first one is right)."""

    terms: tuple[Term, ...]
    shares: tuple[float, ...]
    confidence: float

    def share_of(self, text: str) -> float:
        """The share of the best term that stands in ``text``; 0 when none does."""
        held = squeeze(text)
        return next((share for term, share in zip(self.terms, self.shares, strict=True) if term.key in held), 0.0)


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


def rarity_table(frequency: dict[str, int], windows: int) -> Callable[[str], float]:
    """Rarity of a term: the largest inverse document frequency of its words, from how many of ``windows`` conversations hold each word."""

    def rarity(text: str) -> float:
        values = [math.log((windows + 1) / (1 + frequency.get(squeeze(word.text), 0))) for word in tokenise(text) if word.tag not in "PU"]
        return max(values, default=0.0)

    return rarity


def confidence_features(terms: Sequence[Term], scores: Array, line_scores: Array, rows: Array) -> Array:
    """What tells whether the first term is right: margins, how the mass is spread, and the first term's own features. Shape (len(CONFIDENCE_FEATURES),)."""
    order = np.argsort(-scores)
    best, share = order[0], softmax(scores)
    first = terms[best]
    kin = [index for index, term in enumerate(terms) if term.key in first.key or first.key in term.key]
    rival = next((index for index in order if index not in kin), None)
    beside = [index for index, term in enumerate(terms) if set(term.lines) & set(first.lines)]
    ranked = np.sort(line_scores)[::-1]
    margin = scores[best] - (scores[rival] if rival is not None else scores.min())
    return np.array([
        scores[best], margin, share[kin].sum(), share[beside].sum(), share[best], ranked[0], ranked[0] - (ranked[1] if len(ranked) > 1 else 0.0),
        ranked[:3].sum(), line_scores[first.lines].max(),
        (line_scores / line_scores.sum()).max(), len(terms), len(line_scores), *(rows[best, TERM_FEATURES.index(name)] for name in CONFIDENCE_COLUMNS),
    ])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Logistic:
    """Logistic regression on standardised features."""

    mean: Array
    scale: Array
    weights: Array
    bias: float

    def __call__(self, row: Array) -> float:
        z = float(self.weights @ ((np.nan_to_num(row, nan=0.0) - self.mean) / self.scale)) + self.bias
        return 1.0 / (1.0 + math.exp(-max(-40.0, min(40.0, z))))

    @classmethod
    def of(cls, data: dict[str, Any]) -> Logistic:
        return cls(np.array(data["mean"]), np.array(data["scale"]), np.array(data["weights"]), float(data["bias"]))


class AntecedentRanker:
    """The models of a folder. ``threshold`` is the shipped least confidence of an accepted rewrite."""

    def __init__(self, lines: Trees, terms: Trees, meta: dict[str, Any]) -> None:
        self._lines, self._terms, self._confidence = lines, terms, Logistic.of(meta["confidence"])
        self._rarity = rarity_table(meta["word_frequency"], int(meta["windows"]))
        self.version, self.threshold = str(meta["version"]), float(meta["threshold"])

    @classmethod
    def load(cls, folder: Path) -> AntecedentRanker:
        """Raises InputError when a file is missing or was made for other features."""
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            models = [Trees((folder / f"{name}.txt").read_text(encoding="utf-8"), str(folder / f"{name}.txt")) for name in ("lines", "terms")]
        except FileNotFoundError as error:
            raise InputError(str(error.filename), "no such file", "Reinstall doujie, or train it: python -m scripts.training.ranker") from None
        except json.JSONDecodeError as error:
            raise InputError(str(folder / "meta.json"), f"not JSON ({error.msg})", "Reinstall doujie, or train it: python -m scripts.training.ranker") from None
        columns = [list(LINE_FEATURES), list(TERM_FEATURES), list(CONFIDENCE_FEATURES)]
        if meta.get("format") != RANKER_FORMAT or [*(model.names for model in models), meta["confidence"]["features"]] != columns:
            raise InputError(str(folder), "these models were made for other features", "Train them again: python -m scripts.training.ranker")
        return cls(models[0], models[1], meta)

    def rank(self, question: Question, embed: Embed | None) -> Ranking | None:
        """Candidate antecedents of ``question``; None when its context holds none. ``embed`` gives unit vectors of texts, (n, d); without it the
        similarity columns are missing values."""
        scene = Scene.of(question.text, question.sender, question.context)
        terms = terms_of(scene) if scene.lines else []
        if not terms:
            return None
        lines, _, _ = line_features(scene, embed)
        line_scores = self._lines(lines)
        rows = term_features(scene, terms, lines, line_scores, self._rarity)
        scores = self._terms(rows)
        sure = self._confidence(confidence_features(terms, scores, line_scores, rows))
        order = np.argsort(-scores)
        shares = softmax(scores)[order]
        return Ranking(tuple(terms[index] for index in order), tuple(float(share) for share in shares), sure)
