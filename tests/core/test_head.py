"""The encoder head: features, weights on disk, and the calibration that joins it with the language model."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from core.errors import InputError
from core.head import EncoderHead, Floats, GateCalibration, HeadWeights, Logistic, ReliabilityBin, expected_calibration_error, ngram_indices, reliability, sigmoid, surface_features
from core.messages import ConversationKey, Question

SURFACE = len(surface_features("x"))


def question(text: str) -> Question:
    return Question("q", ConversationKey("test", "g"), "A", text, datetime(2026, 3, 2, tzinfo=UTC))


def weights() -> HeadWeights:
    rng = np.random.default_rng(1)

    def row(size: int) -> Floats:
        return rng.normal(size=size).astype(np.float32)

    ones = np.ones(SURFACE, dtype=np.float32)
    return HeadWeights(row(4), row(4), np.full(4, 2, dtype=np.float32), row(64), row(SURFACE), 0 * ones, ones, 0.25, "head-1", "abc")


def embed(text: str) -> Floats:
    return np.array([len(text), text.count("它"), text.count(" "), 1], dtype=np.float32)


def calibration() -> GateCalibration:
    return GateCalibration(
        Logistic(-0.5, head=1.0, lm=2.0),
        Logistic(0.0, head=1.0),
        Logistic(0.0, lm=1.0),
        threshold=0.45,
        sure_low=0.05,
        sure_high=0.9,
        prompt="gate-1",
        version="1",
        data_hash="abc",
    )


def test_ngrams_do_not_depend_on_the_process() -> None:
    assert 2212 in ngram_indices("它支持么", 1 << 15), "the bucket of 它, as every process and machine must find it"
    assert ngram_indices("ＡＢＣ 12", 512) == ngram_indices("abc 99", 512), "width, case and digits make no difference"
    assert math.isclose(sum(v * v for v in ngram_indices("mmpose 支持吗", 512).values()), 1.0)


def test_surface_features_tell_pointing_from_naming_questions() -> None:
    pointing, naming = surface_features("它支持吗"), surface_features("mmpose 支持 TX2 吗")
    assert pointing[4] == 1
    assert naming[4] == 0
    assert naming[1] == 2, "two Latin terms"
    assert len(surface_features("")) == SURFACE


def test_a_saved_head_judges_as_before(tmp_path: Path) -> None:
    head = EncoderHead(weights(), embed)
    weights().save(tmp_path / "head.npz")
    again = EncoderHead.load(tmp_path / "head.npz", embed)
    questions = [question("它支持么"), question("怎么 安装\nmmcv")]
    assert again.version == "head-1"
    assert again.probability_logit(questions) == pytest.approx(head.probability_logit(questions), abs=0.01)
    assert again.text_logit("怎么  安装 mmcv") == again.text_logit("怎么 安装\nmmcv"), "white space does not count"


def test_a_broken_head_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "head.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"head\.npz.*scripts\.train --head"):
        HeadWeights.load(tmp_path / "head.npz")
    with pytest.raises(InputError):
        HeadWeights.load(tmp_path / "missing.npz")


def test_a_head_with_objects_inside_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "head.npz", format=np.array(1), embedding=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError):
        HeadWeights.load(tmp_path / "head.npz")


def test_calibration_uses_what_is_at_hand() -> None:
    found = calibration()
    assert found.combine(1.0, 0.5) == pytest.approx(sigmoid(-0.5 + 1.0 + 1.0))
    assert found.combine(1.0, None) == pytest.approx(sigmoid(1.0))
    assert found.combine(None, -2.0) == pytest.approx(sigmoid(-2.0))
    with pytest.raises(ValueError, match="neither"):
        found.combine(None, None)


def test_the_head_settles_only_what_is_sure() -> None:
    found = calibration()
    assert found.is_sure(5.0)
    assert found.is_sure(-5.0)
    assert not found.is_sure(0.0)


def test_length_counts_where_the_calibration_says_so() -> None:
    found = replace(calibration(), lm_only=Logistic(0.0, lm=1.0, length=-1.0))
    assert found.combine(None, 0.0, 5) > found.combine(None, 0.0, 50)


def test_calibration_survives_its_file(tmp_path: Path) -> None:
    calibration().save(tmp_path / "calibration.json")
    assert GateCalibration.load(tmp_path / "calibration.json") == calibration()


@pytest.mark.parametrize("text", ["", "[]", '{"both": {}}', '{"both": {"bias": 0}, "head_only": {"bias": 0}, "lm_only": {"bias": 0}, "colour": 1}'])
def test_a_broken_calibration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "calibration.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"calibration\.json"):
        GateCalibration.load(tmp_path / "calibration.json")


def test_calibration_error_of_known_cases() -> None:
    assert expected_calibration_error([0.5] * 100, [True, False] * 50) == pytest.approx(0)
    assert expected_calibration_error([], []) == 0
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0
    assert expected_calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0)
    assert expected_calibration_error([0.9, 0.9], [False, False]) == pytest.approx(0.9)


def test_sigmoid_has_no_overflow() -> None:
    assert sigmoid(-1000) == 0
    assert sigmoid(1000) == 1


def test_reliability_is_told_bin_by_bin_and_empty_bins_are_left_out() -> None:
    low, high = reliability([0.92, 0.98, 1.0, 0.12], [True, True, False, False])
    assert low == ReliabilityBin(1, 0.12, 0.0)
    assert (high.count, high.probability, high.share) == (3, pytest.approx(2.9 / 3), pytest.approx(2 / 3))
