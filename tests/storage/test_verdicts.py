from __future__ import annotations

from datetime import timedelta

import pytest

from core.messages import GateVersion, Verdict
from storage.engine import Database
from storage.inbox import SqlInbox
from storage.questions import SqlQuestionLog
from storage.verdicts import SqlVerdicts
from tests.storage.samples import START, ask, message, resolution, verdict

OLD = verdict(0.9)
NEWER = Verdict(0.2, 0.4, "tiny", "v2", "lm", "better-lora", 3.0)


@pytest.fixture
async def log(database: Database) -> SqlQuestionLog:
    """m0 judged and resolved, m1 judged and waiting for its rewrite, m2 not judged."""
    said = [message(number) for number in range(3)]
    await SqlInbox(database).add(said)
    log = SqlQuestionLog(database)
    await log.record_many([ask(one) for one in said])
    await log.judged(said[0].key, OLD)
    await log.resolved(said[0].key, resolution("补全的问题"))
    await log.judged(said[1].key, OLD)
    return log


async def test_judging_again_adds_and_changes_nothing_that_was_done(database: Database, log: SqlQuestionLog) -> None:
    counts, unfinished = await log.counts(), await log.unfinished()
    ids = [message(number).key for number in range(3)]
    assert await SqlVerdicts(database).append([(key, NEWER) for key in (*ids, "feishu:g1:never")]) == ids
    assert await log.verdicts(ids[0]) == [OLD, NEWER]
    assert await log.counts() == counts, "what the bot did in its groups stays"
    assert await log.unfinished() == unfinished, "nothing is judged, resolved or answered again for it"
    rows = {row.question.id: row async for row in log.export_rows()}
    assert all(row.verdict == NEWER for row in rows.values()), "exports and labellers see the newest"
    assert rows[ids[0]].resolution == resolution("补全的问题")


async def test_a_question_is_due_when_another_version_had_the_last_word(database: Database, log: SqlQuestionLog) -> None:
    verdicts = SqlVerdicts(database)
    m0, m1, m2 = (message(number).key for number in range(3))
    assert await verdicts.not_last_judged_by([OLD.version], None, 10) == [m2]
    assert await verdicts.not_last_judged_by([NEWER.version], None, 10) == [m2, m1, m0]
    assert await verdicts.not_last_judged_by([NEWER.version], None, 2) == [m2, m1]
    assert await verdicts.not_last_judged_by([NEWER.version], START + timedelta(seconds=1), 10) == [m2, m1]
    assert await verdicts.not_last_judged_by([], None, 10) == [m2, m1, m0]
    await verdicts.append([(m1, NEWER)])
    assert await verdicts.not_last_judged_by([NEWER.version, GateVersion("head 1")], None, 10) == [m2, m0]
    await verdicts.append([(m2, NEWER), (m2, OLD)])
    assert await verdicts.not_last_judged_by([NEWER.version], None, 10) == [m2, m0]
    assert await verdicts.not_last_judged_by([OLD.version], None, 10) == [m1]
    assert await verdicts.of_questions([m0, m1, m2]) == {m0: [OLD], m1: [OLD, NEWER], m2: [NEWER, OLD]}
    assert [(question.id, newest) for question, newest in await verdicts.with_verdicts([m2, m1, "gone"])] == [(m1, NEWER), (m2, OLD)]
