"""The inbox: every message of the groups, stored before its platform is acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.messages import ConversationKey, Message, MessageKind, Recall
from core.ports import Unmerged
from core.text import clean_text
from storage.bulk import execute_many, stored_messages
from storage.engine import Database, insert_new, upsert
from storage.erasure import recall_message
from storage.models import chats, members, messages

_COLUMNS = (
    messages.c.platform,
    messages.c.chat_id,
    messages.c.message_id,
    messages.c.sender_id,
    messages.c.text,
    messages.c.sent_at,
    messages.c.sender_name,
    messages.c.kind,
    messages.c.mentions,
    messages.c.reply_to,
    messages.c.thread_id,
    chats.c.name,
)
_WITH_CHAT = messages.outerjoin(chats, sa.and_(chats.c.platform == messages.c.platform, chats.c.chat_id == messages.c.chat_id))
_OPTED_OUT = sa.select(members.c.platform, members.c.sender_id).where(members.c.opted_out_at.is_not(None))

_CONVERSATION = (messages.c.platform == sa.bindparam("platform"), messages.c.chat_id == sa.bindparam("chat_id"))
_STANDING = sa.select(*_COLUMNS).select_from(_WITH_CHAT).where(*_CONVERSATION, messages.c.recalled_at.is_(None))
_RECENT = _STANDING.order_by(messages.c.id.desc()).limit(sa.bindparam("count"))
_POSITION = sa.select(messages.c.id).where(*_CONVERSATION, messages.c.message_id == sa.bindparam("message_id")).scalar_subquery()
_HISTORY = _RECENT.where(messages.c.id < _POSITION)
_FIND = _STANDING.where(messages.c.message_id == sa.bindparam("message_id"))
_SAID = _STANDING.where(messages.c.sender_id == sa.bindparam("sender_id"), messages.c.text == sa.bindparam("text")).order_by(messages.c.id)
_FIRST_UNMERGED = (
    sa.select(messages.c.platform, messages.c.chat_id, sa.func.min(messages.c.id))
    .where(messages.c.utterance_id.is_(None), messages.c.recalled_at.is_(None))
    .group_by(messages.c.platform, messages.c.chat_id)
    .order_by(sa.func.min(messages.c.id))
)
_REACHING_BEYOND = sa.select(messages.c.utterance_id).where(*_CONVERSATION, messages.c.id > sa.bindparam("first"), messages.c.utterance_id.is_not(None))
_START = sa.select(sa.func.min(messages.c.id)).where(*_CONVERSATION, messages.c.utterance_id.in_(_REACHING_BEYOND))
_FROM = (
    sa.select(*_COLUMNS, messages.c.utterance_id)
    .select_from(_WITH_CHAT)
    .where(*_CONVERSATION, messages.c.id >= sa.bindparam("start"), messages.c.recalled_at.is_(None))
    .order_by(messages.c.id)
)


class SqlInbox:
    """Implements :class:`core.ports.Inbox`. Raises :class:`core.errors.StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, messages: Sequence[Message]) -> list[Message]:
        """Store messages durably and return those that were new, in order, with texts cleaned as they are stored.

        Messages of members who opted out are not stored and not returned. A recalled message that comes again stays recalled.
        """
        if not messages:
            return []
        return await self._database.writer.submit(self._add, [_clean(message) for message in messages], len(messages))

    async def unmerged(self) -> Unmerged:
        """See :class:`core.ports.Unmerged`: what a merger has to see again, conversation by conversation."""
        found: list[Message] = []
        merged: set[str] = set()
        async with self._database.read() as connection:
            for platform, chat_id, first in (await connection.execute(_FIRST_UNMERGED)).all():
                conversation = {"platform": platform, "chat_id": chat_id}
                reaching = (await connection.execute(_START, {**conversation, "first": first})).scalar_one()
                for row in await connection.execute(_FROM, {**conversation, "start": min(first, reaching or first)}):
                    *columns, utterance_id = row
                    message = _message(columns)
                    found.append(message)
                    if utterance_id is not None:
                        merged.add(message.key)
        return Unmerged(tuple(found), frozenset(merged))

    async def history(self, message: Message, limit: int) -> list[Message]:
        """The ``limit`` messages that arrived before ``message``, oldest first, without recalled ones; empty when ``message`` is not stored."""
        values = {"platform": message.platform, "chat_id": message.chat_id, "message_id": message.message_id, "count": limit}
        return (await self._select(_HISTORY, values))[::-1]

    async def recent(self, conversation: ConversationKey, limit: int) -> list[Message]:
        """The last ``limit`` messages of a conversation, oldest first, without recalled ones."""
        return (await self._select(_RECENT, {"platform": conversation.platform, "chat_id": conversation.chat_id, "count": limit}))[::-1]

    async def find(self, conversation: ConversationKey, message_id: str) -> Message | None:
        """One message, however old; None when it is not stored or was recalled."""
        values = {"platform": conversation.platform, "chat_id": conversation.chat_id, "message_id": message_id}
        return next(iter(await self._select(_FIND, values)), None)

    async def copies(self, message: Message) -> list[Message]:
        """The other messages that say the same at nearly the same moment, without recalled ones."""
        values = {"platform": message.platform, "chat_id": message.chat_id, "sender_id": message.sender_id, "text": message.text}
        return [other for other in await self._select(_SAID, values) if message.repeats(other)]

    async def recall(self, recall: Recall) -> bool:
        """Erase a message and what was derived from it (question, context lines, rewrites, waiting replies), also from the file.

        False when it was not stored (nor will it be, should it come later).
        """
        stored = await self._database.writer.submit(self._recall, recall)
        if stored:
            await self._database.scrub(vacuum=False)
        return stored

    async def count(self) -> int:
        """Number of stored messages, recalled ones included."""
        async with self._database.read() as connection:
            return (await connection.execute(sa.select(sa.func.count()).where(messages.c.sender_id != ""))).scalar_one()

    async def chats(self) -> dict[ConversationKey, str]:
        """The known groups with their names."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(chats.c.platform, chats.c.chat_id, chats.c.name).order_by(chats.c.platform, chats.c.name))
            return {ConversationKey(platform, chat_id): name for platform, chat_id, name in rows}

    async def _select(self, statement: sa.Select[Any], values: dict[str, Any] | None = None) -> list[Message]:
        async with self._database.read() as connection:
            return [_message(row) for row in await connection.execute(statement, values)]

    def _add(self, connection: Connection, batches: Sequence[Sequence[Message]]) -> list[list[Message]]:
        dialect, now = connection.dialect.name, self._database.now()
        opted_out = {(platform, sender) for platform, sender in connection.execute(_OPTED_OUT)}
        fresh: dict[tuple[str, str, str], Message] = {}
        for batch in batches:
            for message in batch:
                if (message.platform, message.sender_id) not in opted_out:
                    fresh.setdefault((message.platform, message.chat_id, message.message_id), message)
        if not fresh:
            return [[] for _ in batches]
        _note_chats(connection, fresh.values(), now)
        new = fresh.keys() - stored_messages(connection, fresh)  # nobody else writes meanwhile: this transaction holds the lock
        execute_many(connection, insert_new(dialect, messages), [_row(fresh[key], now) for key in fresh if key in new])
        answers: list[list[Message]] = []
        for batch in batches:
            answers.append([])
            for message in batch:
                key = (message.platform, message.chat_id, message.message_id)
                if key in new:
                    new.remove(key)
                    answers[-1].append(message)
        return answers

    def _recall(self, connection: Connection, recalls: Sequence[Recall]) -> list[bool]:
        return [recall_message(connection, recall, self._database.now()) for recall in recalls]


def _note_chats(connection: Connection, batch: Iterable[Message], now: datetime) -> None:
    names: dict[tuple[str, str], str] = {}
    for message in batch:
        key = (message.platform, message.chat_id)
        if message.chat_name or key not in names:
            names[key] = message.chat_name
    dialect = connection.dialect.name
    rows = [{"platform": platform, "chat_id": chat_id, "name": name, "first_seen_at": now} for (platform, chat_id), name in names.items()]
    named, nameless = [row for row in rows if row["name"]], [row for row in rows if not row["name"]]
    if named:
        connection.execute(upsert(dialect, chats, ["platform", "chat_id"], ["name"]), named)
    if nameless:
        connection.execute(insert_new(dialect, chats), nameless)


def _clean(message: Message) -> Message:
    """``message`` with storable texts; itself where nothing is to be changed, which is nearly always."""
    names = ("platform", "chat_id", "message_id", "sender_id", "text", "chat_name", "sender_name", "reply_to", "thread_id")
    changes: dict[str, Any] = {}
    for name in names:
        value = getattr(message, name)
        if value and (cleaned := clean_text(value)) != value:
            changes[name] = cleaned
    if message.mentions and (mentions := tuple(clean_text(mention) for mention in message.mentions)) != message.mentions:
        changes["mentions"] = mentions
    return replace(message, **changes) if changes else message


def _row(message: Message, now: datetime) -> dict[str, Any]:
    return {
        "platform": message.platform,
        "chat_id": message.chat_id,
        "message_id": message.message_id,
        "sender_id": message.sender_id,
        "sender_name": message.sender_name,
        "kind": message.kind.value,
        "text": message.text,
        "sent_at": message.sent_at,
        "received_at": now,
        "mentions": list(message.mentions) or None,
        "reply_to": message.reply_to,
        "thread_id": message.thread_id,
    }


def _message(row: Any) -> Message:
    platform, chat_id, message_id, sender_id, text, sent_at, sender_name, kind, mentions, reply_to, thread_id, chat_name = row
    return Message(platform, chat_id, message_id, sender_id, text, sent_at, chat_name or "", sender_name, MessageKind(kind), tuple(mentions or ()), reply_to, thread_id)
