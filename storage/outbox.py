"""The outbox: replies wait here, durable, until their platform took them.

A reply is claimed before it is sent. When the program dies in between, the claim runs out and the reply is sent again with the same
idempotency key: once more at most, and not twice at all where the platform knows the key.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.delivery import REPLY_PREFIX
from core.messages import ConversationKey
from core.ports import OutgoingReply
from storage.bulk import STANDING, MessageKey, stored_messages
from storage.engine import Database, insert_new
from storage.models import questions, replies


class ReplyState(StrEnum):
    """``failed``: refused for good; ``expired``: too old to be sent, its question was erased, or the group wants no replies any more."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class QueuedReply:
    """A reply as the outbox holds it. ``attempts`` counts claims."""

    reply: OutgoingReply
    state: ReplyState
    attempts: int
    created_at: datetime
    sent_at: datetime | None = None
    platform_message_id: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class SentReply:
    """A reply as its group sees it. ``message_id`` is the platform's."""

    key: str
    conversation: ConversationKey
    message_id: str


@dataclass(frozen=True, slots=True)
class _Claim:
    platform: str
    limit: int
    lease: timedelta
    chat_id: str | None
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    key: str
    values: dict[str, Any]


class SqlOutbox:
    """Repository of replies. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enqueue(self, reply: OutgoingReply) -> bool:
        """Queue a reply. False, and nothing happens, when its idempotency key was queued before, or a message that it was made of was erased meanwhile."""
        return await self._database.writer.submit(self._enqueue, reply)

    async def claim(self, platform: str, limit: int = 20, lease: timedelta = timedelta(seconds=60), chat_id: str | None = None, without: Collection[str] = ()) -> list[QueuedReply]:
        """Due replies of a platform (or of one group of it, ``chat_id``; none of the groups ``without``), oldest first, for the caller to send now.

        They are nobody else's for the time of ``lease``; after it they are due again unless marked.
        """
        return await self._database.writer.submit(self._claim, _Claim(platform, limit, lease, chat_id, tuple(without)))

    async def sent(self, key: str, platform_message_id: str) -> None:
        """The platform took it."""
        await self._finish(key, state=ReplyState.SENT.value, sent_at=self._database.now(), platform_message_id=platform_message_id, error=None)

    async def retry(self, key: str, error: str, after: timedelta) -> None:
        """The platform did not take it: due again in ``after``."""
        await self._finish(key, due_at=self._database.now() + after, error=error)

    async def failed(self, key: str, error: str) -> None:
        """The platform refuses it for good."""
        await self._finish(key, state=ReplyState.FAILED.value, error=error)

    async def expire(self, platform: str, max_age: timedelta, spared: str = "") -> int:
        """Give up replies of a platform that have waited longer than ``max_age``, but for those whose key begins with ``spared``. Returns how many."""
        return await self._database.writer.submit(self._expire, (platform, max_age, spared))

    async def withdraw(self, conversation: ConversationKey, prefix: str) -> int:
        """Give up the replies that wait in a group and whose key begins with ``prefix``. Returns how many."""
        return await self._database.writer.submit(self._withdraw, (conversation, prefix))

    async def waits(self, key: str) -> bool:
        """Whether a reply is still to be sent: since it was claimed it may have been withdrawn, or erased with its question."""
        queued = await self.get(key)
        return queued is not None and queued.state is ReplyState.PENDING

    async def next_due(self, platform: str, without: Collection[str] = ()) -> datetime | None:
        """When the next reply of a platform becomes due in a group that is not among ``without``, or None when none waits."""
        async with self._database.read() as connection:
            due: datetime | None = (await connection.execute(sa.select(sa.func.min(replies.c.due_at)).where(*_pending(platform), replies.c.chat_id.not_in(without)))).scalar()
            return due

    async def to_take_back(self, platform: str, since: datetime) -> list[SentReply]:
        """Replies whose text was erased after they were sent, at ``since`` or later, and that still stand in their groups, oldest first."""
        erased = (replies.c.platform == platform, replies.c.state == ReplyState.SENT.value, replies.c.text == "", replies.c.sent_at >= since, replies.c.platform_message_id != "")
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(replies.c.idempotency_key, replies.c.chat_id, replies.c.platform_message_id).where(*erased).order_by(replies.c.id))
            return [SentReply(key, ConversationKey(platform, chat_id), message_id) for key, chat_id, message_id in rows]

    async def taken_back(self, key: str) -> None:
        """The reply does not stand in its group any more, or cannot be taken back."""
        await self._finish(key, platform_message_id="")

    async def get(self, key: str) -> QueuedReply | None:
        """The reply of an idempotency key, or None."""
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(replies).where(replies.c.idempotency_key == key))).first()
            return _queued(row) if row else None

    async def counts(self) -> dict[ReplyState, int]:
        """Number of replies in each state."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(replies.c.state, sa.func.count()).group_by(replies.c.state))
            found = {row[0]: row[1] for row in rows}
            return {state: found.get(state.value, 0) for state in ReplyState}

    async def _finish(self, key: str, **values: Any) -> None:
        await self._database.writer.submit(self._mark, _Outcome(key, values))

    def _enqueue(self, connection: Connection, items: Sequence[OutgoingReply]) -> list[bool]:
        now = self._database.now()
        standing = stored_messages(connection, {key for reply in items for key in _made_of(reply)}, STANDING)
        answers = []
        for reply in items:
            gone = {message_id for *_, message_id in set(_made_of(reply)) - standing}
            if gone and not _still_shown(connection, reply, gone):
                answers.append(False)
                continue
            row = {
                "idempotency_key": reply.idempotency_key,
                "platform": reply.conversation.platform,
                "chat_id": reply.conversation.chat_id,
                "text": reply.text,
                "reply_to": reply.reply_to,
                "mention": reply.mention,
                "state": ReplyState.PENDING.value,
                "attempts": 0,
                "due_at": now,
                "created_at": min(now, reply.asked_at or now),
            }
            answers.append(connection.execute(insert_new(connection.dialect.name, replies), row).rowcount > 0)
        return answers

    def _claim(self, connection: Connection, claims: Sequence[_Claim]) -> list[list[QueuedReply]]:
        now = self._database.now()
        answers = []
        for claim in claims:
            groups = replies.c.chat_id.not_in(claim.without) if claim.chat_id is None else replies.c.chat_id == claim.chat_id
            due = sa.select(replies.c.id).where(*_pending(claim.platform), groups, replies.c.due_at <= now).order_by(replies.c.id).limit(claim.limit)
            ids = list(connection.scalars(due.with_for_update(skip_locked=True)))
            connection.execute(sa.update(replies).where(replies.c.id.in_(ids)).values(attempts=replies.c.attempts + 1, due_at=now + claim.lease))
            answers.append([_queued(row) for row in connection.execute(sa.select(replies).where(replies.c.id.in_(ids)).order_by(replies.c.id))])
        return answers

    def _mark(self, connection: Connection, outcomes: Sequence[_Outcome]) -> list[None]:
        for outcome in outcomes:
            connection.execute(sa.update(replies).where(replies.c.idempotency_key == outcome.key).values(**outcome.values))
        return [None] * len(outcomes)

    def _expire(self, connection: Connection, limits: Sequence[tuple[str, timedelta, str]]) -> list[int]:
        answers = []
        for platform, age, spared in limits:
            old = [*_pending(platform), replies.c.created_at < self._database.now() - age]
            if spared:
                old.append(sa.not_(replies.c.idempotency_key.startswith(spared, autoescape=True)))
            answers.append(connection.execute(sa.update(replies).where(*old).values(state=ReplyState.EXPIRED.value)).rowcount)
        return answers

    def _withdraw(self, connection: Connection, items: Sequence[tuple[ConversationKey, str]]) -> list[int]:
        answers = []
        for conversation, prefix in items:
            here = (*_pending(conversation.platform), replies.c.chat_id == conversation.chat_id, replies.c.idempotency_key.startswith(prefix, autoescape=True))
            answers.append(connection.execute(sa.update(replies).where(*here).values(state=ReplyState.EXPIRED.value)).rowcount)
        return answers


def _pending(platform: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return replies.c.platform == platform, replies.c.state == ReplyState.PENDING.value


def _made_of(reply: OutgoingReply) -> list[MessageKey]:
    return [(*reply.conversation, message_id) for message_id in reply.made_of]


def _still_shown(connection: Connection, reply: OutgoingReply, gone: set[str]) -> bool:
    """Whether the question of ``reply`` shows all of ``gone`` as before: age took them out of the inbox, a recall or a member's wish would have taken them out of it too."""
    context = connection.scalar(sa.select(questions.c.context).where(questions.c.id == reply.idempotency_key.removeprefix(REPLY_PREFIX)))
    return context is not None and gone.issubset(line["message_id"] for line in context)


def _queued(row: sa.Row[Any]) -> QueuedReply:
    reply = OutgoingReply(ConversationKey(row.platform, row.chat_id), row.text, row.idempotency_key, row.reply_to, row.mention)
    return QueuedReply(reply, ReplyState(row.state), row.attempts, row.created_at, row.sent_at, row.platform_message_id or "", row.error or "")
