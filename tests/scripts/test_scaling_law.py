"""Growth with size, steps down beyond noise, and which labels the bigger models contradict."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from core.errors import InputError
from scripts.scaling_law.law import Series, make_series, measure
from scripts.scaling_law.report import ScalingResult, as_json, make_page, verdict
from scripts.scaling_law.specs import Axis
from scripts.scaling_law.suspects import find_doubts
from tests.scripts.scaling_models import items, judgement

ITEMS = items()
TRUTH = [item.needs_resolution for item in ITEMS]
SIZES = (1e8, 5e8, 1e9, 4e9, 7e9)


def series_of(skills: Sequence[float], *, trained: bool = False, sizes: Sequence[float] = SIZES, flipped: Sequence[int] = ()) -> list[Series]:
    judged = [
        judgement(f"m{number}", size, TRUTH, skill, seed=number, trained=trained, flipped=flipped if number >= len(skills) - 3 else ())
        for number, (size, skill) in enumerate(zip(sizes, skills, strict=False))
    ]
    return make_series(measure(judged, TRUTH, 400, 1))


def result_of(series: list[Series], axis: Axis = Axis.SIZE) -> ScalingResult:
    return ScalingResult(axis, ITEMS, series, find_doubts(ITEMS, series), {"always yes": {"f1": 0.667}}, 400, 1)


def test_growing_models_pass() -> None:
    (series,) = series_of((0.3, 1.0, 2.0, 3.0, 4.5))
    trend = series.trend("precision")
    assert (trend.tau, trend.least_p) == pytest.approx((1.0, 2 / 120))
    assert trend.p == pytest.approx(2 / 120), "five models in order: as sure as five can be"
    assert trend.low is not None
    assert trend.low > 0.5
    assert not series.violations
    assert series.grows
    sentences, good = verdict(result_of([series]))
    assert good
    assert "labels pass" in sentences[-1]


def test_a_step_down_beyond_noise_is_named_and_the_labels_are_suspect() -> None:
    (series,) = series_of((0.5, 1.5, 3.5, 1.0, 4.5))
    assert {(v.metric, v.smaller, v.bigger) for v in series.violations} == {("precision", "m2", "m3"), ("f1", "m2", "m3")}
    sentences, good = verdict(result_of([series]))
    assert good is False
    assert any("m2 to m3" in sentence for sentence in sentences)


def test_the_isotonic_fit_never_falls_and_pools_what_does() -> None:
    (series,) = series_of((0.5, 1.5, 3.5, 1.0, 4.5))
    fit = series.trend("f1").fit
    assert list(fit) == sorted(fit)
    assert fit[2] == fit[3]


def test_shrinking_quality_is_suspect_and_noise_between_equals_is_no_step_down() -> None:
    (falling,) = series_of((4.0, 3.0, 2.0, 1.0, 0.4))
    assert falling.trend("precision").tau == pytest.approx(-1.0)
    assert falling.grows is False
    (equal,) = series_of((2.0, 2.0, 2.0, 2.0, 2.0))
    assert not equal.violations


def test_two_sizes_say_nothing_of_growth_and_quantisations_of_one_size_need_no_order() -> None:
    (two,) = series_of((1.0, 3.0))
    assert two.trend("precision").tau is None
    assert verdict(result_of([two]))[1] is None
    (three,) = series_of((1.0, 2.0, 3.0))
    sentences, good = verdict(result_of([three]))
    assert good is None, "three models in order are no proof"
    assert "p below 0.33" in sentences[0]
    (quantised,) = series_of((1.0, 4.0, 1.5, 3.0), sizes=(1e8, 2e8, 2e8, 3e8))
    assert {(v.smaller, v.bigger) for v in quantised.violations} <= {("m1", "m3")}, "not from one quantisation to the other"


def test_labels_that_all_bigger_models_contradict_are_found_with_their_pattern() -> None:
    wrong = [4, 10, 16, 22, 28]
    series = series_of((1.0, 2.0, 3.0, 3.5, 4.0), flipped=wrong)
    doubts = find_doubts(ITEMS, series)
    assert doubts.judges == ("m2", "m3", "m4"), "the bigger half"
    assert {suspect.item.id for suspect in doubts.suspects[: len(wrong)]} == {f"q{index}" for index in wrong}
    assert all(suspect.doubt > 0.9 for suspect in doubts.suspects[: len(wrong)])
    assert doubts.suspects[0].as_dict()["models_say"] == "no"
    pronoun = next(pattern for pattern in doubts.patterns if pattern.group == "pronoun")
    assert pronoun.suspects >= len(wrong)
    assert not any(pattern.grouping == "language" for pattern in doubts.patterns), "one group alone tells nothing"


def test_a_pattern_that_holds_the_doubts_is_marked() -> None:
    series = series_of((0.2, 3.0, 4.0, 5.0, 5.0), flipped=range(0, 60, 2))
    doubts = find_doubts(ITEMS, series)
    marked = {(pattern.grouping, pattern.group) for pattern in doubts.patterns if pattern.suspect}
    assert ("pronoun", "pronoun") in marked
    assert ("pronoun", "no pronoun") not in marked


def test_models_that_guess_are_no_judges() -> None:
    doubts = find_doubts(ITEMS, series_of((0.0, 0.0, 0.0)))
    assert doubts.judges == ()
    assert "better than chance" in doubts.note
    assert not doubts.suspects


def test_judges_by_name() -> None:
    series = series_of((0.2, 2.0, 3.0, 3.5, 4.0))
    assert find_doubts(ITEMS, series, ["m0", "m1"]).judges == ("m0", "m1")
    with pytest.raises(InputError, match="no model is named m9"):
        find_doubts(ITEMS, series, ["m1", "m9"])
    with pytest.raises(InputError, match="cannot agree"):
        find_doubts(ITEMS, series, ["m1"])


def test_labels_of_one_kind_alone_are_reported_without_doubts() -> None:
    one = items(40)[::2]
    judged = [judgement(f"m{n}", 1e8 * (n + 1), [True] * len(one), 2.0, seed=n) for n in range(3)]
    series = make_series(measure(judged, [True] * len(one), 200, 1))
    result = ScalingResult(Axis.SIZE, one, series, find_doubts(one, series), {}, 200, 1)
    assert as_json(result)["models"][0]["auc"] == [None, None, None]
    assert make_page(result).sections


def test_before_and_after_are_two_series_and_the_json_holds_all() -> None:
    judged = [judgement(f"b{n}", size, TRUTH, 1.0 + 0.3 * n, seed=n) for n, size in enumerate(SIZES)]
    judged += [judgement(f"a{n}", size, TRUTH, 2 + 0.5 * n, seed=10 + n, trained=True) for n, size in enumerate(SIZES)]
    series = make_series(measure(judged, TRUTH, 200, 1))
    assert [(one.trained, len(one.models)) for one in series] == [(False, 5), (True, 5)]
    document = as_json(result_of(series))
    assert len(document["models"]) == 10
    assert document["judges"] == ["a2", "a3", "a4"], "the trained ones, where both kinds can tell"
    assert document["series"][1]["trends"][0]["metric"] == "precision"
