"""The choice model: which term of the shortlist makes the whole rewrite right, given what all sources say of it. Learnt from authors that none of the sources saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.antecedent_features import Array
from core.antecedents import Term
from core.combining import CHOICE_BASE, choice_names
from core.grounding import is_free, squeeze, tokens
from scripts.training.ranker import COMMON_SETTINGS
from scripts.training.ranker_data import Case, grade, rewritten_right

#: Gain by :func:`worth`: a right rewrite counts most, and most of all one that says nothing beside it.
_GAINS = [0, 3, 5, 6]
SETTINGS = {
    "objective": "lambdarank", "lambdarank_truncation_level": 4, "label_gain": _GAINS, "learning_rate": 0.05, "num_leaves": 7, "min_data_in_leaf": 50, "feature_fraction": 0.4,
}  # fmt: skip
ROUNDS = 60
#: Questions that a choice model needs: after 1,300 it ranked a little worse than the plain sum, after 3,300 better.
LEAST_LESSONS = 2000
#: Characters beside the gold that a right rewrite may hold and still count more than one that only names the thing; a Latin word counts as two.
MOST_BESIDE = 2


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question with a right term: ``rows`` (k, features) of its shortlist, the weighted ``sums`` (k,) and the ``worth`` (k,) of its terms."""

    rows: Array
    sums: Array
    worth: NDArray[np.int64]


def worth(case: Case, term: Term) -> int:
    """3: the rewrite with ``term`` says all that gold adds, and nothing else; 2: all, and a word more; 1: it names the thing; 0: something else."""
    if case.gold is None:
        return 0
    if rewritten_right(case, term):
        gold = squeeze(case.gold)
        beside = sum(2 if token.isascii() else len(token) for token in tokens(term.text) if token not in gold and not is_free(token))
        if beside <= MOST_BESIDE:
            return 2 if beside else 3
    return int(grade(case.scene.question, case.gold, term) >= 1)


def fit_choice(lessons: Sequence[Lesson], sources: Sequence[str], seed: int, least: int = LEAST_LESSONS) -> Any | None:
    """A LightGBM model whose scores are added to :data:`core.combining.CHOICE_BASE` times the sums; None where there are fewer than ``least`` lessons."""
    import lightgbm

    if len(lessons) < max(1, least):
        return None
    data = lightgbm.Dataset(
        np.vstack([one.rows for one in lessons]),
        np.concatenate([one.worth for one in lessons]).astype(float),
        group=[len(one.rows) for one in lessons],
        init_score=np.concatenate([CHOICE_BASE * one.sums for one in lessons]),
        feature_name=list(choice_names(sources)),
    )
    return lightgbm.train({**SETTINGS, **COMMON_SETTINGS, "seed": seed}, data, ROUNDS)


def scorer(model: Any | None) -> Callable[[Array], Array] | None:
    """What :func:`core.combining.corrected` calls."""
    return None if model is None else lambda rows: np.asarray(model.predict(rows))
