from __future__ import annotations

import pytest

from scripts.evaluation.metrics import Confusion, auc, bleu4, rouge_l, same_text, tokens


def test_confusion_of_nothing_found_is_zero_and_not_an_error() -> None:
    assert Confusion.of([True, False], [False, False]).as_dict() == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert Confusion.of([True, True, False], [True, False, True]).as_dict() == {"precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_auc_needs_both_labels() -> None:
    assert auc([True, True], [0.1, 0.2]) is None
    assert auc([True, False], [0.9, 0.1]) == 1.0


def test_chinese_is_scored_by_character_and_english_by_word() -> None:
    assert tokens("ＭＭ Pose 怎么", chinese=True) == list("mmpose怎么")
    assert tokens("Don't  Panic, OK?", chinese=False) == ["don't", "panic", ",", "ok", "?"]
    assert same_text("怎么 把 MMPose", "怎么把mmpose", chinese=True)
    assert same_text("Does  it", "does it", chinese=False)
    assert not same_text("does it", "doesit", chinese=False)


def test_bleu_and_rouge_are_fractions() -> None:
    reference = list("怎么把部署到板子上")
    assert bleu4([reference], [reference]) == pytest.approx(1.0)
    assert 0.0 < bleu4([list("怎么把部署到")], [reference]) < 1.0
    assert rouge_l(reference, reference) == 1.0
    assert rouge_l(list("abc"), list("axbxc")) == pytest.approx(6 / 8)
    assert rouge_l([], reference) == 0.0
