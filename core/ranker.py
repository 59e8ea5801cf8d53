"""Ranking candidate antecedents with shipped models, and how sure the first one is.

Two gradient-boosted models (:mod:`core.trees`): ``lines.txt`` gives each earlier line the probability that it names the antecedent, ``terms.txt`` scores each
candidate term (lambdarank). Others may point at one of them: small encoders (:mod:`core.antecedent_pointer`) and a small language model (:mod:`core.antecedent_reader`).
``meta.json`` holds the logistic model of P(the first term is right) and its threshold, the same for whatever speaks beside the trees (:mod:`core.combining`) and for what a second
reading finds (:mod:`core.second_reading`), word frequencies, version and the hash of the training data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.antecedent_features import LINE_FEATURES, TERM_FEATURES, Scene, line_features, term_features, terms_of
from core.antecedent_pointer import AntecedentPointer
from core.antecedents import Term, tokenise
from core.combining import POINTERS, SOURCES, Candidates, Combination, Logistic, combined_features, combined_names, reads_again, second_look, softmax
from core.errors import InputError
from core.grounding import squeeze
from core.messages import Question
from core.second_reading import LACKS, SECOND_FEATURES, Second, asked_again, both, rest_of, second_of
from core.trees import Array, Trees

RANKER_FORMAT = 10

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


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates, best first, with their shares (softmax of the scores, sum 1); ``put_in`` is what belongs into the question: the first one, or two together. ``confidence`` is
    P(it is right), ``threshold`` the least that is accepted."""

    terms: tuple[Term, ...]
    shares: tuple[float, ...]
    confidence: float
    threshold: float
    put_in: str

    def share_of(self, text: str) -> float:
        """The share of the best term that stands in ``text``; 0 when none does."""
        held = squeeze(text)
        return next((share for term, share in zip(self.terms, self.shares, strict=True) if term.key in held), 0.0)


def rarity_table(frequency: dict[str, int], windows: int) -> Callable[[str], float]:
    """Rarity of a term: the largest inverse document frequency of its words, from how many of ``windows`` conversations hold each word."""

    def rarity(text: str) -> float:
        values = [math.log((windows + 1) / (1 + frequency.get(squeeze(word.text), 0))) for word in tokenise(text) if word.tag not in "PU"]
        return max(values, default=0.0)

    return rarity


def confidence_features(terms: Sequence[Term], scores: Array, line_scores: Array, rows: Array) -> Array:
    """What tells whether the first term is right: margins, how the mass is spread, and the first term's own features. Shape (len(CONFIDENCE_FEATURES),)."""
    order = np.argsort(-scores, kind="stable")  # the term that is put first, also among equals
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


class AntecedentRanker:
    """The models of a folder; ``pointers`` by their names, where some are there and the packaged encoder is installed. What speaks beside the trees has to be in ``meta``, with its
    weights."""

    def __init__(self, lines: Trees, terms: Trees, meta: dict[str, Any], pointers: Mapping[str, AntecedentPointer] | None = None) -> None:
        self._lines, self._terms, self._confidence = lines, terms, Logistic.of(meta["confidence"])
        self._rarity = rarity_table(meta["word_frequency"], int(meta["windows"]))
        self._threshold = float(meta["threshold"])
        self.version, self.pointers = str(meta["version"]), dict(pointers or {})
        self._point_weights = {name: float(weight) for name, weight in meta["point_weights"].items()}
        self.combinations = {tuple(one["sources"]): Combination.of(one) for one in meta["combined"]}

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
        if not isinstance(meta, dict) or meta.get("format") != RANKER_FORMAT:  # another form may lack what is read below
            raise _misfit(folder)
        columns = [list(LINE_FEATURES), list(TERM_FEATURES), list(CONFIDENCE_FEATURES)]
        fits = [*(model.names for model in models), meta["confidence"]["features"]] == columns
        if not fits or not all(_is_combination(one) for one in meta["combined"]):
            raise _misfit(folder)
        heard = [name for name in POINTERS if any(name in one["sources"] for one in meta["combined"])]
        return cls(models[0], models[1], meta, _pointers({name: folder / f"{name}.npz" for name in heard}))

    def hears(self, source: str) -> bool:
        """Whether what ``source`` says changes anything here: it has weights in ``meta`` beside those of the pointers that run."""
        return tuple(name for name in SOURCES if name == source or name in self.pointers) in self.combinations

    def candidates(self, question: Question) -> Candidates | None:
        """Candidate antecedents of ``question``, scored; None when its context holds none."""
        scene = Scene.of(question.text, question.sender, question.context)
        terms = terms_of(scene) if scene.lines else []
        if not terms:
            return None
        lines = line_features(scene)
        line_scores = self._lines(lines)
        rows = term_features(scene, terms, lines, line_scores, self._rarity)
        points = {name: pointer.point(scene, terms, line_scores) for name, pointer in self.pointers.items()}
        return Candidates(scene, tuple(terms), rows, self._terms(rows), line_scores, points, self._point_weights)

    def rank(self, found: Candidates, read: Array | None = None) -> Ranking:
        """By the trees and whatever else speaks. ``read`` (n,): a reader's log-odds of all terms."""
        chosen = found.shortlist
        values = {name: points[chosen] for name, points in found.points.items()}
        if read is not None:
            values["reader"] = read[chosen]
        plain = self._plain_confidence(found)
        together = self.combinations.get(tuple(values))
        if together is None:
            return _ranking(found, list(range(len(found.terms))), found.scores, plain, self._threshold)
        total = together.total(found, values)
        first = chosen[int(np.argmax(total))]
        row, put_in = combined_features(found, total, values, plain), found.terms[first].text
        if together.lacks is not None:
            second = self._read_again(found, first)
            lacks = together.lacks(second.features) if second is not None else 0.0
            row = np.array([*row, *second_look(second, lacks)])
            if second is not None and lacks >= LACKS:
                put_in = both(found.scene.question, found.terms[first], found.terms[second.index])
        return _ranking(found, chosen, total, together.confidence(row), together.least_confidence(found.scene, found.terms[first]), put_in)

    def _read_again(self, found: Candidates, first: int) -> Second | None:
        """The likeliest second thing beside the term of index ``first``."""
        rest = rest_of(found.terms, found.terms[first])
        if not rest:
            return None
        again = self.pointers[POINTERS[0]].point(asked_again(found.scene, found.terms[first]), [found.terms[index] for index in rest], found.line_scores)
        return second_of(found.scene, found.terms, first, found.points[POINTERS[0]], rest, again)

    def _plain_confidence(self, found: Candidates) -> float:
        return self._confidence(confidence_features(found.terms, found.scores, found.line_scores, found.rows))


def _is_combination(entry: dict[str, Any]) -> bool:
    """Whether its models were made for the features of here."""
    lacks = entry.get("lacks")
    wanted = list(SECOND_FEATURES) if reads_again(entry["sources"]) else None
    return entry["confidence"]["features"] == list(combined_names(entry["sources"])) and (lacks["features"] if lacks else None) == wanted


def _misfit(folder: Path) -> InputError:
    return InputError(str(folder), "these models were made for other features", "Train them again: python -m scripts.training.ranker")


def _ranking(found: Candidates, chosen: Sequence[int], scores: Array, confidence: float, threshold: float, put_in: str = "") -> Ranking:
    order = np.argsort(-scores, kind="stable")
    shares, terms = softmax(scores)[order], tuple(found.terms[chosen[index]] for index in order)
    return Ranking(terms, tuple(float(share) for share in shares), confidence, threshold, put_in or terms[0].text)


def _pointers(files: Mapping[str, Path]) -> dict[str, AntecedentPointer]:
    """None without an encoder to run them. Raises InputError for a file that is not there."""
    try:
        return {name: AntecedentPointer.load(path) for name, path in files.items()}
    except ImportError:
        return {}
