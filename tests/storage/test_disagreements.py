from __future__ import annotations

from datetime import timedelta

import pytest

from core.agreement import Agreement
from core.messages import Recall
from storage.disagreements import SqlDisagreements, Standing
from storage.engine import Database
from storage.inbox import SqlInbox
from storage.labelling import Answer, Source, SqlLabelling
from storage.labels import Label, LabelValue, SqlLabels, consensus
from tests.storage.samples import START, StillClock
from tests.storage.test_labelling import record

YES, NO, NOT_QUESTION = LabelValue.YES, LabelValue.NO, LabelValue.NOT_QUESTION


async def label(database: Database, clock: StillClock, question: str, *given: tuple[str, LabelValue]) -> None:
    for labeller, value in given:
        clock.forward(seconds=1)
        await SqlLabels(database).add(question, labeller, value)


async def test_who_differs_in_the_newest_labels_disagrees(database: Database, clock: StillClock) -> None:
    ids = await record(database, 5)
    await label(database, clock, ids[0], ("anna", YES), ("ben", NO))
    await label(database, clock, ids[1], ("anna", YES), ("ben", YES))
    await label(database, clock, ids[2], ("anna", YES), ("anna", NO))  # changed her mind
    await label(database, clock, ids[3], ("anna", YES), ("ben", NO), ("ben", YES))  # he came round
    await label(database, clock, ids[4], ("anna", YES), ("ben", NO), ("carl", NOT_QUESTION))
    desk = SqlDisagreements(database)
    assert await desk.open() == [ids[4], ids[0]]
    found = await desk.get(ids[4])
    assert found is not None
    assert [(vote.labeller, vote.label) for vote in found.votes] == [("anna", YES), ("ben", NO), ("carl", NOT_QUESTION)]


async def test_a_decision_settles_it_until_it_is_taken_back(database: Database, clock: StillClock) -> None:
    (question,) = await record(database, 1)
    await label(database, clock, question, ("anna", YES), ("ben", NO))
    desk = SqlDisagreements(database)
    decision = await desk.settle(question, NO, None, "carl")
    assert decision is not None
    assert await desk.open() == []
    settled = consensus(await SqlLabels(database).of_question(question), decision)
    assert settled is not None
    assert (settled.labeller, settled.label) == ("carl", NO)
    again = await desk.settle(question, YES, "完整？", "dora")
    assert again is not None
    assert (again.label, again.rewrite, again.adjudicator) == (YES, "完整？", "dora")
    assert not await desk.reopen(question, "carl")
    assert await desk.reopen(question, "dora")
    assert not await desk.reopen(question, "dora")
    assert await desk.open() == [question]


async def test_erased_questions_are_not_decided(database: Database, clock: StillClock) -> None:
    (question,) = await record(database, 1)
    await label(database, clock, question, ("anna", YES), ("ben", NO))
    await SqlInbox(database).recall(Recall("feishu", "g1", "m1", clock()))
    desk = SqlDisagreements(database)
    assert await desk.settle(question, NO, None, "carl") is None
    assert (await desk.get(question), await desk.open()) == (None, [])


async def test_agreement_with_others_by_name_and_together(database: Database, clock: StillClock) -> None:
    ids = await record(database, 5)
    for question, mine, bens in zip(ids, (YES, YES, NO, NO, NO), (YES, NO, NO, NO, None), strict=True):
        await label(database, clock, question, ("anna", mine), *([("ben", bens)] if bens else []))
    await label(database, clock, ids[0], ("carl", YES), ("anna", NO), ("anna", YES))
    standing = await SqlDisagreements(database).standing("anna")
    bens, carls = Agreement(4, 0.75, pytest.approx(0.5)), Agreement(1, 1.0, None)
    assert standing.by_name == (("ben", bens), ("carl", carls))
    assert (standing.others.items, standing.others.share) == (5, 0.8)
    assert await SqlDisagreements(database).standing("dora") == Standing(Agreement(0, None, None), Agreement(0, None, None), ())


async def test_an_older_label_that_is_imported_later_does_not_count_in_the_agreement(database: Database, clock: StillClock) -> None:
    (question,) = await record(database, 1)
    await label(database, clock, question, ("anna", NO), ("ben", NO))
    assert await SqlLabels(database).add_new([Label(question, "ben", YES, START - timedelta(days=1))]) == [True]
    desk = SqlDisagreements(database)
    assert await desk.open() == []
    assert ((await desk.standing("anna")).others.share, (await desk.standing("ben")).others.share) == (1.0, 1.0)


async def test_agreement_with_oneself_counts_second_looks_and_nothing_else(database: Database, clock: StillClock) -> None:
    ids = await record(database, 3)
    await label(database, clock, ids[0], ("anna", YES))
    await label(database, clock, ids[1], ("anna", YES))
    await label(database, clock, ids[2], ("anna", YES), ("anna", NO))  # a change of mind, not a second look
    for question, value in ((ids[0], YES), (ids[1], NO)):
        clock.forward(hours=1)
        item = await SqlLabelling(database).item(question, "anna", Source.REPEAT)
        assert item is not None
        await SqlLabelling(database).give(Answer(question, "anna", value, None, Source.REPEAT, item.seen))
    await label(database, clock, ids[1], ("anna", YES))  # later, in the review queue
    assert (await SqlDisagreements(database).standing("anna")).myself == Agreement(2, 0.5, 0.0)
