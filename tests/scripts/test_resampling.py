"""The paired bootstrap: right figures, intervals that cover, differences that know noise from progress."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.resampling import compare_f1, difference, draw_weights, estimate, figures, weighted_auc, whole_set

GENERATOR = np.random.default_rng(7)


def test_figures_on_the_items_themselves_are_the_usual_ones() -> None:
    truth = np.array([True, True, True, False, False])
    predicted = np.array([True, True, False, True, False])
    scores = np.array([0.9, 0.8, 0.3, 0.6, 0.3])
    found = {name: float(values[0]) for name, values in figures(truth, predicted, scores, whole_set(5)).items()}
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["auc"] == pytest.approx(4.5 / 6), "a tie counts half"


def test_auc_of_resamples_is_that_of_the_resampled_items() -> None:
    truth = np.array([True] * 20 + [False] * 30)
    scores = np.round(GENERATOR.normal(truth, 1.0), 1)
    weights = draw_weights(truth, 50, seed=3)
    by_weights = weighted_auc(truth, scores, weights)
    for row, value in zip(weights, by_weights, strict=True):
        drawn = np.repeat(np.arange(50), row)
        yes, no = scores[drawn][truth[drawn]], scores[drawn][~truth[drawn]]
        pairs = (yes[:, None] > no[None, :]).mean() + 0.5 * (yes[:, None] == no[None, :]).mean()
        assert value == pytest.approx(pairs)


def test_resamples_keep_the_share_of_labels_and_depend_on_the_seed_alone() -> None:
    truth = np.array([True] * 7 + [False] * 13)
    weights = draw_weights(truth, 100, seed=5)
    assert set(weights[:, truth].sum(axis=1)) == {7}
    assert set(weights[:, ~truth].sum(axis=1)) == {13}
    assert (weights == draw_weights(truth, 100, seed=5)).all()
    assert (weights != draw_weights(truth, 100, seed=6)).any()


def test_intervals_hold_the_true_value_about_as_often_as_they_promise() -> None:
    covered = 0
    for trial in range(60):
        generator = np.random.default_rng(trial)
        truth = np.array([True] * 60 + [False] * 60)
        predicted = np.where(truth, generator.random(120) < 0.8, generator.random(120) < 0.2)
        found, _ = estimate(truth, predicted, predicted.astype(float), draw_weights(truth, 400, trial))
        recall = found["recall"]
        assert recall.low is not None
        assert recall.high is not None
        covered += recall.low <= 0.8 <= recall.high
    assert 51 <= covered <= 60


def test_auc_does_not_exist_where_a_label_is_missing() -> None:
    truth = np.array([True, True, True])
    found, _ = estimate(truth, truth, np.array([0.1, 0.2, 0.3]), draw_weights(truth, 100))
    assert found["auc"].value is None
    assert found["f1"].value == 1.0


def test_progress_beyond_noise_is_told_from_noise() -> None:
    truth = [index % 2 == 0 for index in range(400)]
    worse = [label if index % 5 else not label for index, label in enumerate(truth)]
    better = [label if index % 15 else not label for index, label in enumerate(truth)]
    change, f1 = compare_f1(truth, better, worse)
    assert change.above_noise
    assert change.value == pytest.approx(f1["one"] - f1["other"])
    assert compare_f1(truth, worse, better)[0].below_noise
    other = [label if (index + 1) % 15 else not label for index, label in enumerate(truth)]
    same, _ = compare_f1(truth, better, other)
    assert not same.above_noise
    assert not same.below_noise


def test_equal_judges_are_no_progress() -> None:
    truth = [True, False] * 50
    change, _ = compare_f1(truth, truth, truth)
    assert (change.value, change.low, change.p, change.above_noise) == (0.0, 0.0, 1.0, False)


def test_a_difference_is_paired() -> None:
    noise = GENERATOR.normal(0, 1, 2000)
    change = difference(0.1, noise + 0.1, noise)
    assert change.above_noise, "common noise of the items cancels"
