from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from core.groups import GroupState, PastReply, ReplyMode
from core.messages import ConversationKey
from core.ports import OutgoingReply
from storage.engine import Database, open_database
from storage.groups import SqlGroups
from storage.inbox import SqlInbox
from storage.outbox import SqlOutbox
from tests.storage.samples import START, StillClock, message

GROUP = ConversationKey("feishu", "g1")


async def test_states_are_kept_by_platform_and_group(database: Database) -> None:
    groups = SqlGroups(database)
    assert await groups.load() == {}
    await groups.save(GROUP, GroupState(False, ReplyMode.ANSWER))
    await groups.save(GROUP, GroupState(True, None))
    await groups.save(ConversationKey("wechat", "g1"), GroupState(False, ReplyMode.OFF))
    assert await SqlGroups(database).load() == {GROUP: GroupState(True, None), ConversationKey("wechat", "g1"): GroupState(False, ReplyMode.OFF)}


async def test_replies_of_the_last_hour_without_notices_commands_and_refused_ones(database: Database, clock: StillClock) -> None:
    groups, outbox = SqlGroups(database), SqlOutbox(database)
    await outbox.enqueue(OutgoingReply(GROUP, "…", "reply:old", mention="u1"))
    clock.forward(minutes=1)
    for key in ("reply:sent", "reply:failed", "notice:feishu:g1", "command:feishu:g1:m1", "reply:waits"):
        await outbox.enqueue(OutgoingReply(GROUP, "…", key, mention="u1"))
    await outbox.sent("reply:sent", "om_1")
    await outbox.failed("reply:failed", "refused")
    assert await groups.replies_since(START) == [PastReply(GROUP, "u1", START + timedelta(minutes=1))] * 2


@pytest.mark.sqlite
async def test_a_database_of_the_first_version_is_brought_up_to_date(database: Database, path: Path, url: str) -> None:
    await SqlInbox(database).add([message(1)])
    await database.close()
    old = sqlite3.connect(path)
    newer = ("complaints", "group_settings", "review_queue", "label_repeats", "adjudications", "job_runs", "job_schedules", "announcements")
    old.executescript("".join(f"DROP TABLE {table};" for table in newer))
    old.executescript("ALTER TABLE verdicts DROP COLUMN relabelled; ALTER TABLE questions DROP COLUMN quotes_unseen")
    old.executescript("DROP INDEX ix_labels_question_labeller; UPDATE alembic_version SET version_num = '0001'")
    old.close()
    reopened = await open_database(url)
    await SqlGroups(reopened).save(GROUP, GroupState(False))
    assert await SqlInbox(reopened).recent(GROUP, 5) == [message(1)]
    await reopened.close()
