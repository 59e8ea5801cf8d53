"""Ranking candidate antecedents with shipped models, and how sure the first one is.

Two gradient-boosted models (:mod:`core.trees`): ``lines.txt`` gives each earlier line the probability that it names the antecedent, ``terms.txt`` scores each
candidate term (lambdarank). A language model may judge the best of them (:mod:`core.antecedent_judge`). ``meta.json`` holds the logistic models of P(the first term is
right), with and without the judge, how both scores are combined, word frequencies, thresholds, version and the hash of the training data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.antecedent_features import LINE_FEATURES, TERM_FEATURES, Scene, line_features, term_features, terms_of
from core.antecedent_judge import shortlist
from core.antecedents import Term, tokenise
from core.errors import InputError
from core.grounding import squeeze
from core.messages import Question
from core.trees import Array, Trees

RANKER_FORMAT = 4

# fmt: off
CONFIDENCE_COLUMNS = [
    "tag_latin", "length", "n_tokens", "rarity", "best_distance", "question_length", "question_pronoun",
    "question_has_head", "question_latin", "rank_rivals_nearer", "n_mentions", "latin_in_window", "reach_max",
    "in_askers_line", "score_max_share", "in_quote", "asker_mentioned", "partner_mentioned",
    "rivals_in_line",
]
# fmt: on
CONFIDENCE_FEATURES = (
    *["score", "margin", "share_of_kin", "share_of_lines", "share", "line_first", "line_margin", "line_three", "line_of_term", "line_share", "n_terms", "n_lines"],
    *CONFIDENCE_COLUMNS,
)
# fmt: off
JUDGED_FEATURES = (
    "margin", "share_of_kin", "share", "judge_first", "judge_margin", "judge_best", "score_margin", "plain_log_odds", "ranker_agrees", "line_first", "line_margin", "line_of_term",
    "n_terms", "n_lines", "quotes",
    "in_quote", "tag_latin", "length", "rarity", "best_distance", "question_length", "question_pronoun", "question_has_head", "question_latin", "rank_rivals_nearer",
)
_JUDGED_COLUMNS = JUDGED_FEATURES[JUDGED_FEATURES.index("in_quote") :]
# fmt: on


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


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the trees make of a question: its candidate terms with features (n, len(TERM_FEATURES)) and scores (n,), and the probabilities of its lines (m,)."""

    scene: Scene
    terms: tuple[Term, ...]
    rows: Array
    scores: Array
    line_scores: Array

    @property
    def shortlist(self) -> list[int]:
        """Indices of the terms that a judge is asked about, best first."""
        return shortlist(self.scores)


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


def judged_features(found: Candidates, combined: Array, margins: Array, plain: float) -> Array:
    """What tells whether the first term of a judged shortlist is right, (len(JUDGED_FEATURES),).

    ``combined`` and ``margins`` are of the shortlist (k,), ``plain`` is the confidence without judge.
    """
    chosen = found.shortlist
    order = np.argsort(-combined, kind="stable")
    best, share = order[0], softmax(combined)
    keys = [found.terms[index].key for index in chosen]
    kin = [i for i, key in enumerate(keys) if key in keys[best] or keys[best] in key]
    rival = next((i for i in order if i not in kin), None)
    ranked = np.sort(found.line_scores)[::-1]
    scores, column = found.scores[chosen], dict(zip(TERM_FEATURES, found.rows[chosen[best]], strict=True))
    gaps = [float(values[best] - (values[rival] if rival is not None else values.min() - 1.0)) for values in (combined, margins, scores)]
    return np.array([
        gaps[0], share[kin].sum(), share[best], margins[best], gaps[1], margins.max(), gaps[2], math.log(max(plain, 1e-6) / max(1.0 - plain, 1e-6)), 0 in kin,
        ranked[0], ranked[0] - (ranked[1] if len(ranked) > 1 else 0.0), found.line_scores[found.terms[chosen[best]].lines].max(), len(found.terms), len(found.line_scores),
        bool(found.scene.quote), *(column[name] for name in _JUDGED_COLUMNS),
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


@dataclass(frozen=True, slots=True)
class JudgedModel:
    """How scores of the trees and margins of a judge become one ranking. ``threshold`` is the least confidence of an accepted rewrite, ``reply_threshold`` that of one whose term
    stands in the message that the question quotes. The first leaves at most three in twenty that do not say all that is meant, the second at most three that name something else.
    """

    score_weight: float
    margin_weight: float
    confidence: Logistic
    threshold: float
    reply_threshold: float

    @classmethod
    def of(cls, data: dict[str, Any]) -> JudgedModel:
        bounds = float(data["threshold"]), float(data["reply_threshold"])
        return cls(float(data["score_weight"]), float(data["margin_weight"]), Logistic.of(data["confidence"]), *bounds)

    def least_confidence(self, scene: Scene, term: Term) -> float:
        """Of an accepted rewrite with ``term``: a quoted picture names nothing, and makes no other term surer."""
        return self.reply_threshold if term.key in squeeze(scene.quote) else self.threshold

    def combine(self, scores: Array, margins: Array) -> Array:
        return self.score_weight * scores + self.margin_weight * margins


class AntecedentRanker:
    """The models of a folder. ``threshold`` is the shipped least confidence of an accepted rewrite without a judge, that of ``judged`` the one with it."""

    def __init__(self, lines: Trees, terms: Trees, meta: dict[str, Any]) -> None:
        self._lines, self._terms, self._confidence = lines, terms, Logistic.of(meta["confidence"])
        self._rarity = rarity_table(meta["word_frequency"], int(meta["windows"]))
        self.version, self.threshold = str(meta["version"]), float(meta["threshold"])
        self.judged = JudgedModel.of(meta["judged"]) if meta.get("judged") else None

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
        judged = meta.get("judged") or {"confidence": {"features": list(JUDGED_FEATURES)}}
        fits = [*(model.names for model in models), meta["confidence"]["features"]] == columns and judged["confidence"]["features"] == list(JUDGED_FEATURES)
        if meta.get("format") != RANKER_FORMAT or not fits:
            raise InputError(str(folder), "these models were made for other features", "Train them again: python -m scripts.training.ranker")
        return cls(models[0], models[1], meta)

    def candidates(self, question: Question) -> Candidates | None:
        """Candidate antecedents of ``question``, scored; None when its context holds none."""
        scene = Scene.of(question.text, question.sender, question.context)
        terms = terms_of(scene) if scene.lines else []
        if not terms:
            return None
        lines = line_features(scene)
        line_scores = self._lines(lines)
        rows = term_features(scene, terms, lines, line_scores, self._rarity)
        return Candidates(scene, tuple(terms), rows, self._terms(rows), line_scores)

    def rank(self, found: Candidates) -> Ranking:
        """By the trees alone."""
        order = np.argsort(-found.scores, kind="stable")
        shares = softmax(found.scores)[order]
        return Ranking(tuple(found.terms[index] for index in order), tuple(float(share) for share in shares), self._plain_confidence(found))

    def rank_judged(self, found: Candidates, margins: Sequence[float]) -> Ranking:
        """The shortlist by trees and judge together. ``margins``: log-odds of yes, one for each of the shortlist. Only where ``judged`` is there."""
        assert self.judged is not None
        chosen, judged = found.shortlist, np.asarray(margins, dtype=float)
        combined = self.judged.combine(found.scores[chosen], judged)
        sure = self.judged.confidence(judged_features(found, combined, judged, self._plain_confidence(found)))
        order = np.argsort(-combined, kind="stable")
        shares = softmax(combined)[order]
        return Ranking(tuple(found.terms[chosen[index]] for index in order), tuple(float(share) for share in shares), sure)

    def _plain_confidence(self, found: Candidates) -> float:
        return self._confidence(confidence_features(found.terms, found.scores, found.line_scores, found.rows))
