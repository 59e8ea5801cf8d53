"""What the bot knows of its groups: states switched by admins, totals, past replies, complaints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.delivery import REPLY_PREFIX
from core.groups import GroupState, GroupStatistics, PastReply, ReplyMode
from core.messages import ConversationKey
from storage.engine import Database, insert_new, upsert
from storage.models import complaints, group_settings, messages, questions, replies, rewrites, verdicts
from storage.outbox import ReplyState

_TO_QUESTIONS = replies.c.idempotency_key.startswith(REPLY_PREFIX, autoescape=True)


class SqlGroups:
    """Implements ``GroupStore``, ``Statistics``, ``Complaints`` and ``ReplyHistory`` of :mod:`core.groups`. Raises StorageError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- states

    async def load(self) -> dict[ConversationKey, GroupState]:
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(group_settings))
            return {ConversationKey(row.platform, row.chat_id): GroupState(row.enabled, ReplyMode(row.reply) if row.reply else None) for row in rows}

    async def save(self, conversation: ConversationKey, state: GroupState) -> None:
        await self._database.writer.submit(self._save, (conversation, state))

    # --- totals

    async def of_group(self, conversation: ConversationKey, since: datetime | None = None) -> GroupStatistics:
        """Totals of a group; ``since``: of what was received, asked and replied from this moment on."""
        newest = sa.select(sa.func.max(rewrites.c.id)).where(rewrites.c.question_id == questions.c.id).correlate(questions).scalar_subquery()
        resolved = sa.exists().where(rewrites.c.id == newest, rewrites.c.rewrite.is_not(None))
        judged = sa.exists().where(verdicts.c.question_id == questions.c.id)
        stored = sa.select(sa.func.count()).where(*_in(messages, conversation), messages.c.recalled_at.is_(None), *_from(messages.c.received_at, since))
        asked = sa.select(sa.func.count(), sa.func.count(sa.case((judged, 1))), sa.func.count(sa.case((resolved, 1)))).where(
            *_in(questions, conversation), *_from(questions.c.created_at, since)
        )
        said = sa.select(sa.func.count()).where(*_in(replies, conversation), _TO_QUESTIONS, replies.c.state == ReplyState.SENT.value, *_from(replies.c.created_at, since))
        async with self._database.read() as connection:
            totals = (await connection.execute(asked)).one()
            return GroupStatistics((await connection.execute(stored)).scalar_one(), *totals, (await connection.execute(said)).scalar_one())

    async def replies_since(self, moment: datetime) -> list[PastReply]:
        """Replies to questions that were queued after ``moment``, oldest first; refused and expired ones among them do not count."""
        kept = replies.c.state.in_([ReplyState.PENDING.value, ReplyState.SENT.value])
        statement = sa.select(replies.c.platform, replies.c.chat_id, replies.c.mention, replies.c.created_at).where(_TO_QUESTIONS, kept, replies.c.created_at > moment)
        async with self._database.read() as connection:
            rows = await connection.execute(statement.order_by(replies.c.created_at, replies.c.id))
            return [PastReply(ConversationKey(platform, chat_id), mention or "", at) for platform, chat_id, mention, at in rows]

    # --- complaints

    async def wrong(self, conversation: ConversationKey, quoted: str | None) -> bool:
        """Note that a reply was wrong: the one with the platform's message id ``quoted``, else the last one that was sent. False when there is none, or its question is erased."""
        return await self._database.writer.submit(self._wrong, (conversation, quoted))

    async def complained(self) -> dict[str, datetime]:
        """Questions whose reply was called wrong, with the time of the first complaint, oldest first."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(complaints.c.question_id, complaints.c.created_at).order_by(complaints.c.created_at, complaints.c.question_id))
            return {row.question_id: row.created_at for row in rows}

    def _save(self, connection: Connection, items: Sequence[tuple[ConversationKey, GroupState]]) -> list[None]:
        statement = upsert(connection.dialect.name, group_settings, ["platform", "chat_id"], ["enabled", "reply", "updated_at"])
        for conversation, state in items:
            row = {"platform": conversation.platform, "chat_id": conversation.chat_id, "enabled": state.enabled, "reply": state.reply, "updated_at": self._database.now()}
            connection.execute(statement, row)
        return [None] * len(items)

    def _wrong(self, connection: Connection, items: Sequence[tuple[ConversationKey, str | None]]) -> list[bool]:
        return [self._complain(connection, conversation, quoted) for conversation, quoted in items]

    def _complain(self, connection: Connection, conversation: ConversationKey, quoted: str | None) -> bool:
        sent = sa.select(replies.c.idempotency_key).where(*_in(replies, conversation), _TO_QUESTIONS, replies.c.state == ReplyState.SENT.value)
        if quoted:
            sent = sent.where(replies.c.platform_message_id == quoted)
        key = connection.scalar(sent.order_by(replies.c.sent_at.desc(), replies.c.id.desc()).limit(1))
        question_id = None if key is None else connection.scalar(sa.select(questions.c.id).where(questions.c.id == key.removeprefix(REPLY_PREFIX)))
        if question_id is None:
            return False
        connection.execute(insert_new(connection.dialect.name, complaints), {"question_id": question_id, "created_at": self._database.now()})
        return True


def _in(table: sa.Table, conversation: ConversationKey) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return table.c.platform == conversation.platform, table.c.chat_id == conversation.chat_id


def _from(column: sa.Column[datetime], since: datetime | None) -> tuple[sa.ColumnElement[bool], ...]:
    return () if since is None else (column >= since,)
