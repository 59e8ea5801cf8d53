from __future__ import annotations

import math
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from core.agreement import Agreement, agreement, cohen_kappa


def test_the_worked_example_of_fifty_applications() -> None:
    """20 times both yes, 15 times both no, 5 and 10 times apart: observed 0.70, expected 0.50."""
    pairs = [*repeat(("yes", "yes"), 20), *repeat(("yes", "no"), 5), *repeat(("no", "yes"), 10), *repeat(("no", "no"), 15)]
    assert agreement(pairs) == Agreement(50, 0.7, pytest.approx(0.4))


@pytest.mark.parametrize(
    ("pairs", "kappa"),
    [
        ([], None),
        ([("yes", "yes")] * 7, None),
        ([("yes", "yes"), ("no", "no")], 1.0),
        ([("yes", "no"), ("no", "yes")], -1.0),
        ([("yes", "no")] * 3, 0.0),
    ],
)
def test_extremes(pairs: list[tuple[str, str]], kappa: float | None) -> None:
    assert cohen_kappa(pairs) == kappa


LABELS = st.sampled_from(["yes", "no", "not_question"])


@settings(deadline=None)  # the first call imports scikit-learn's parts
@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=60))
def test_as_scikit_learn_counts(pairs: list[tuple[str, str]]) -> None:
    first, second = zip(*pairs, strict=True)
    kappa = cohen_kappa(pairs)
    if set(first) == set(second) and len(set(first)) == 1:
        assert kappa is None
        return
    theirs = cohen_kappa_score(first, second)
    assert kappa is not None
    assert not math.isnan(theirs)
    assert kappa == pytest.approx(theirs)
