"""WeChat quotes a message as text in front of another member's: whose words must vanish are erased there, too."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.antecedents import split_quote
from core.messages import ConversationKey
from storage.models import messages, questions

#: A quotation is cut off where it is long: so much of it must be in the message.
_COMPARED = 60


def cut_quotations(connection: Connection, conversation: ConversationKey, names: Collection[str], text: str | None = None) -> set[str]:
    """Take quotations of somebody called one of ``names`` (of his message ``text``; None: of any) out of the messages of a conversation, and delete the questions that begin
    with one.

    Returns the ids of these messages and of those merged with them: what else was derived of them has to go.
    """
    here = (messages.c.platform == conversation.platform, messages.c.chat_id == conversation.chat_id)
    columns = (messages.c.id, messages.c.message_id, messages.c.utterance_id, messages.c.text)
    found: set[str] = set()
    for row in connection.execute(sa.select(*columns).where(*here, messages.c.text.startswith("「"))).all():
        who, quoted, own = split_quote(row.text)
        if who not in names or not _is_of(quoted, text):
            continue
        connection.execute(sa.update(messages).where(messages.c.id == row.id).values(text=own))
        found |= {row.message_id, *_merged_with(connection, here, row)}
        if row.utterance_id is not None:
            connection.execute(sa.delete(questions).where(questions.c.id == row.utterance_id))
    return found


def _merged_with(connection: Connection, here: tuple[sa.ColumnElement[bool], ...], row: Any) -> set[str]:
    """Ids of the messages of its utterance, under one of which a context line shows them all."""
    if row.utterance_id is None:
        return set()
    return set(connection.scalars(sa.select(messages.c.message_id).where(*here, messages.c.utterance_id == row.utterance_id)))


def _is_of(quoted: str, text: str | None) -> bool:
    if text is None:
        return True
    own, shown = (" ".join(part.split())[:_COMPARED] for part in (split_quote(text)[2], quoted.removesuffix("…").removesuffix("...")))
    return bool(shown) and own.startswith(shown)
