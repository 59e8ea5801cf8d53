from __future__ import annotations

from datetime import timedelta

import pytest

from core.errors import InputError
from storage.engine import Database
from storage.inbox import SqlInbox
from storage.labels import Adjudication, Label, LabelValue, SqlLabels, consensus, votes
from storage.questions import SqlQuestionLog
from tests.storage.samples import START, ask, message


async def test_labels_are_kept_in_order_and_can_be_taken_back(database: Database) -> None:
    labels, key = SqlLabels(database), message(1).key
    await SqlInbox(database).add([message(1)])
    await SqlQuestionLog(database).record(*ask(message(1)))
    first = await labels.add(key, "anna", LabelValue.NO)
    second = await labels.add(key, "anna", LabelValue.YES, "完整的问题")
    third = await labels.add(key, "ben", LabelValue.NOT_QUESTION)
    assert await labels.of_question(key) == [first, second, third]
    assert await labels.by_labeller("anna") == [first, second]
    assert await labels.remove(second.id)
    assert not await labels.remove(second.id)
    assert await labels.all() == [first, third]


async def test_a_label_for_a_question_that_is_gone_is_refused_clearly(database: Database) -> None:
    with pytest.raises(InputError, match="not in the log"):
        await SqlLabels(database).add("feishu:g1:m9", "anna", LabelValue.YES)


def vote(labeller: str, label: str, minute: int, rewrite: str | None = None) -> Label:
    return Label("q", labeller, LabelValue(label), START + timedelta(minutes=minute), rewrite, minute)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], None),
        ([vote("anna", "no", 1)], ("no", "anna", None)),
        ([vote("anna", "no", 1), vote("ben", "yes", 2), vote("carl", "no", 3)], ("no", "carl", None)),
        ([vote("anna", "no", 3), vote("ben", "yes", 9), vote("carl", "no", 4)], ("no", "carl", None)),
        ([vote("anna", "no", 1), vote("ben", "yes", 2)], ("yes", "ben", None)),
        ([vote("ben", "yes", 2), vote("anna", "no", 1)], ("yes", "ben", None)),
        ([vote("anna", "no", 1), vote("ben", "yes", 2), vote("ben", "yes", 3), vote("ben", "yes", 4), vote("carl", "no", 5)], ("no", "carl", None)),
        ([vote("anna", "yes", 1, "甲"), vote("anna", "no", 2), vote("ben", "no", 3)], ("no", "ben", None)),
        ([vote("anna", "yes", 1, "甲"), vote("ben", "yes", 2, "乙"), vote("carl", "yes", 3)], ("yes", "carl", "乙")),
        ([vote("anna", "yes", 1, "甲"), vote("ben", "no", 2, "乙"), vote("carl", "yes", 3)], ("yes", "carl", "甲")),
    ],
)
def test_what_counts_where_several_have_spoken(given: list[Label], expected: tuple[str, str, str | None] | None) -> None:
    result = consensus(given)
    assert (result and (result.label, result.labeller, result.rewrite)) == expected


def test_an_adjudication_is_the_last_word() -> None:
    result = consensus([vote("anna", "yes", 1, "甲"), vote("ben", "yes", 2)], Adjudication("q", LabelValue.NO, "carl", START))
    assert result == Label("q", "carl", LabelValue.NO, START)


def test_an_adjudication_without_a_rewrite_of_its_own_keeps_the_newest_of_the_votes_it_agrees_with() -> None:
    given = [vote("anna", "yes", 1, "甲"), vote("ben", "yes", 2, "乙"), vote("carl", "no", 3)]
    settled = [consensus(given, Adjudication("q", LabelValue.YES, "dora", START, rewrite)) for rewrite in (None, "丙")]
    assert settled == [Label("q", "dora", LabelValue.YES, START, rewrite) for rewrite in ("乙", "丙")]


def test_one_vote_per_labeller() -> None:
    assert [(one.labeller, one.label) for one in votes([vote("ben", "no", 5), vote("anna", "yes", 4), vote("ben", "yes", 1)])] == [("anna", "yes"), ("ben", "no")]
