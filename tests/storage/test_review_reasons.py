"""What is queued for a human eye, and what is not."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from core.messages import RefusalReason, Resolution, Verdict
from storage.labels import Label, LabelValue
from storage.questions import LoggedQuestion
from storage.review_queue import QueueItem, QueueReason, priority_of
from storage.review_reasons import Choice, choose, reason_to_look
from tests.storage.samples import START, ask, message

QUESTION = ask(message(1, "怎么把它部署到 TX2？"))[1]


def judged(probability: float, *, model: str = "tiny", threshold: float = 0.5) -> Verdict:
    return Verdict(probability, threshold, model, "v1")


def refused(reason: RefusalReason, confidence: float = 0.6) -> Resolution:
    return Resolution("候选", None, confidence, "tiny", "v1", reason=reason)


def why(logged: LoggedQuestion, *verdicts: Verdict, new_words: tuple[str, ...] = ()) -> QueueReason | None:
    item = reason_to_look(logged, verdicts or ([logged.verdict] if logged.verdict else []), None, new_words)
    return item.reason if item else None


@pytest.mark.parametrize(
    ("probability", "threshold", "expected"),
    [
        (0.52, 0.5, QueueReason.NEAR_THRESHOLD),
        (0.3, 0.5, QueueReason.NEAR_THRESHOLD),
        (0.9, 0.5, None),
        (0.02, 0.5, None),
        (0.12, 0.1, QueueReason.NEAR_THRESHOLD),
        (0.5, 0.1, None),
    ],
)
def test_near_the_threshold_by_log_odds(probability: float, threshold: float, expected: QueueReason | None) -> None:
    assert why(LoggedQuestion(QUESTION, judged(probability, threshold=threshold))) is expected


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_model_that_is_certain_is_not_near(probability: float) -> None:
    assert why(LoggedQuestion(QUESTION, judged(probability))) is None


def test_models_that_disagree() -> None:
    logged = LoggedQuestion(QUESTION, judged(0.02))
    assert why(logged, judged(0.98, model="big"), judged(0.02)) is QueueReason.DISAGREEMENT
    assert why(logged, judged(0.98), judged(0.02)) is None, "the newest verdict of one model counts"
    assert why(logged, judged(0.3, threshold=0.2, model="big"), judged(0.4, threshold=0.5)) is QueueReason.DISAGREEMENT, "each by its own threshold"
    far = reason_to_look(logged, [judged(0.98, model="big"), judged(0.02)], None, ())
    near = reason_to_look(logged, [judged(0.55, model="big"), judged(0.45)], None, ())
    assert far is not None
    assert near is not None
    assert far.priority > near.priority
    assert "big+v1: 0.98" in far.detail


def test_refusals_of_the_resolver_but_not_failures() -> None:
    for reason in RefusalReason:
        expected = None if reason in (RefusalReason.BACKEND_FAILED, RefusalReason.SWITCHED_OFF) else QueueReason.REFUSED
        assert why(LoggedQuestion(QUESTION, judged(0.99), refused(reason))) is expected
    assert why(LoggedQuestion(QUESTION, judged(0.01), refused(RefusalReason.UNSURE))) is None, "a newer gate sees nothing to resolve"


def test_new_words_come_last() -> None:
    assert why(LoggedQuestion(QUESTION, judged(0.99)), new_words=("tx2",)) is QueueReason.NEW_WORDS
    assert why(LoggedQuestion(QUESTION, judged(0.5)), new_words=("tx2",)) is QueueReason.NEAR_THRESHOLD
    assert why(LoggedQuestion(QUESTION)) is None


def test_a_complaint_beats_all_and_is_heard_again_after_the_label() -> None:
    complained = START + timedelta(hours=1)
    logged = LoggedQuestion(QUESTION, judged(0.5), refused(RefusalReason.UNSURE))
    item = reason_to_look(logged, [judged(0.9, model="big"), judged(0.1)], complained, ("tx2",))
    assert item is not None
    assert item.reason is QueueReason.COMPLAINT
    for hours, expected in ((0, QueueReason.COMPLAINT), (2, None)):
        label = Label(QUESTION.id, "anna", LabelValue.YES, START + timedelta(hours=hours))
        again = reason_to_look(LoggedQuestion(QUESTION, judged(0.5), label=label), [judged(0.5)], complained, ("tx2",))
        assert (again and again.reason) is expected


def test_what_is_labelled_is_not_queued() -> None:
    label = Label(QUESTION.id, "anna", LabelValue.YES, START)
    assert why(LoggedQuestion(QUESTION, judged(0.5), label=label), new_words=("tx2",)) is None


def test_the_ranks_of_reasons_never_overlap() -> None:
    ordered = (QueueReason.NEW_WORDS, QueueReason.NEAR_THRESHOLD, QueueReason.REFUSED, QueueReason.DISAGREEMENT, QueueReason.SUSPECT_LABEL, QueueReason.COMPLAINT)
    assert set(ordered) == set(QueueReason)
    for lower, higher in pairwise(ordered):
        assert priority_of(lower, 5.0) < priority_of(higher, -5.0)


# --- choosing

TEXTS = {"a": "怎么把它部署到 TX2？", "b": "怎么把它部署到tx2", "c": "ncnn 支持 int8 吗", "d": "谁有标注工具推荐", "e": "请问怎么把它部署到 TX2 呢"}


def entry(key: str, priority: float, reason: QueueReason = QueueReason.REFUSED) -> QueueItem:
    return QueueItem(key, reason, priority)


def kept(choice: Choice) -> list[str]:
    return [item.question_id for item in choice.items]


def test_questions_that_are_alike_are_queued_once_the_most_urgent_of_them() -> None:
    choice = choose([entry("a", 2.0), entry("b", 3.0), entry("c", 1.0), entry("e", 2.5)], [], TEXTS, [], 10)
    assert kept(choice) == ["b", "c"]
    assert choice.duplicates == 2


def test_a_more_urgent_question_takes_the_place_of_one_like_it() -> None:
    choice = choose([entry("b", 6.0, QueueReason.COMPLAINT)], [entry("a", 2.0)], TEXTS, [], 10)
    assert kept(choice) == ["b"]
    assert choice.left_out == ["a"]


def test_what_waits_keeps_its_higher_priority() -> None:
    assert choose([entry("a", 2.0)], [entry("a", 5.0)], TEXTS, [], 10).items == [entry("a", 5.0)]


def test_what_was_labelled_in_other_words_is_not_asked_again_unless_a_member_complained() -> None:
    labelled = ["怎么把它部署到TX2"]
    assert kept(choose([entry("a", 4.0), entry("c", 1.0)], [], TEXTS, labelled, 10)) == ["c"]
    assert kept(choose([entry("a", 6.0, QueueReason.COMPLAINT), entry("c", 1.0)], [], TEXTS, labelled, 10)) == ["a", "c"]


def test_the_queue_stays_small_and_the_least_urgent_leave_it() -> None:
    choice = choose([entry("a", 3.0)], [entry("c", 1.0), entry("d", 2.0)], TEXTS, [], 2)
    assert kept(choice) == ["a", "d"]
    assert choice.left_out == ["c"]
    assert kept(choose([entry("a", 3.0)], [], TEXTS, [], 0)) == []


def test_suspect_labels_take_nobodys_place_and_stay() -> None:
    suspect = entry("c", 1.0, QueueReason.SUSPECT_LABEL)
    choice = choose([entry("a", 9.0)], [suspect], TEXTS, [TEXTS["c"]], 1)
    assert kept(choice) == ["a", "c"]
    assert choice.left_out == []


def test_an_entry_whose_question_was_erased_is_forgotten() -> None:
    assert kept(choose([], [entry("gone", 9.0)], TEXTS, [], 5)) == []
