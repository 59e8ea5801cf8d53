"""Erasing: a recalled message, a member who wants to be forgotten, what is older than the retention. All that was derived of a text goes with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from difflib import SequenceMatcher
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from core.delivery import NOTICE_PREFIX, REPLY_PREFIX
from core.grounding import takes_from
from core.messages import ContextLine, ConversationKey, MessageKind, Recall, RefusalReason, Resolution
from storage.bulk import stored_messages
from storage.engine import insert_new
from storage.models import adjudications, labels, messages, questions, replies, review_queue, rewrites
from storage.quotations import cut_quotations

MAY_COME_AGAIN = timedelta(days=2)
"""Platforms push a message again hours later, and after each new connection: what a member wanted forgotten must not come back with it."""
_UNDER_WAY = timedelta(days=1)
"""For so long a reply to a question may still be made of the lines that it shows, at most."""

_PAGE = 200
_CHUNK = 500
_PATTERN_LENGTH = 100
_KEEP_LINES = (
    sa.update(questions)
    .where(questions.c.id == sa.bindparam("in_question"))
    .values(context=sa.bindparam("lines", type_=questions.c.context.type), quotes_unseen=sa.or_(questions.c.quotes_unseen, sa.bindparam("quote_gone", type_=sa.Boolean())))
)
_MARK: dict[str, Any] = {
    "sender_id": "",
    "sender_name": "",
    "kind": MessageKind.OTHER.value,
    "text": "",
    "mentions": None,
    "reply_to": None,
    "thread_id": None,
    "utterance_id": None,
}
_BLANK_LABEL: dict[str, Any] = {"rewrite": None}
_BLANK_REWRITE: dict[str, Any] = {"candidate": None, "rewrite": None, "invented": [], "reason": RefusalReason.NO_CONTEXT.value}
# Table, its key, the columns that may hold words of the context, and what they become.
_BORROWERS: tuple[tuple[sa.Table, str, tuple[str, ...], dict[str, Any]], ...] = (
    (rewrites, "id", ("candidate", "rewrite"), _BLANK_REWRITE),
    (labels, "id", ("rewrite",), _BLANK_LABEL),
    (adjudications, "question_id", ("rewrite",), _BLANK_LABEL),
    (review_queue, "question_id", ("detail",), {"detail": ""}),
)


@dataclass(slots=True)
class Erased:
    """What must vanish from one conversation: ids of messages, and their texts by the names that their sender went by."""

    conversation: ConversationKey
    message_ids: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def add(self, row: Any) -> None:
        """Take in a row of ``messages`` (message_id, sender_id, sender_name, text)."""
        self.message_ids.add(row.message_id)
        self.names.update(name for name in (row.sender_name, row.sender_id) if name)
        if row.text.strip():
            self.texts.add(row.text.strip())

    def carries(self, line: dict[str, Any]) -> bool:
        """True when a context line shows one of the texts: by its id, or by name and text where it stands for several messages."""
        if line["message_id"] in self.message_ids:
            return True
        return line["sender"] in self.names and any(text in line["text"] for text in self.texts)


def recall_message(connection: Connection, recall: Recall, now: datetime) -> bool:
    """Erase one message and what was derived of it. False when it was not stored; a mark is left, so that it is not stored later."""
    where = (messages.c.platform == recall.platform, messages.c.chat_id == recall.chat_id, messages.c.message_id == recall.message_id)
    row = connection.execute(sa.select(messages).where(*where)).first()
    if row is None:
        _leave_mark(connection, recall, now)
        return False
    if row.recalled_at is not None:
        return bool(row.sender_id)
    connection.execute(sa.update(messages).where(*where).values(text="", mentions=None, recalled_at=recall.at))
    erased = Erased(recall.conversation)
    erased.add(row)
    if row.utterance_id is not None:
        connection.execute(sa.delete(questions).where(questions.c.id == row.utterance_id))
        # A context line shows a whole utterance under the id of one of its messages.
        siblings = sa.select(messages.c.message_id).where(*where[:2], messages.c.utterance_id == row.utterance_id)
        erased.message_ids.update(connection.scalars(siblings))
    erased.message_ids |= cut_quotations(connection, recall.conversation, erased.names, row.text)
    erase_derived(connection, erased, _mentions(erased))
    return True


def forget_member(connection: Connection, platform: str, sender_id: str, now: datetime) -> int:
    """Delete all messages and questions of a member and what was derived of them; of what may come again a mark is left. Returns the number of messages."""
    by_chat: dict[str, Erased] = {}
    own = (messages.c.platform == platform, messages.c.sender_id == sender_id)
    rows = connection.execute(sa.select(messages.c.chat_id, messages.c.message_id, messages.c.sender_id, messages.c.sender_name, messages.c.text).where(*own)).all()
    for row in rows:
        by_chat.setdefault(row.chat_id, Erased(ConversationKey(platform, row.chat_id))).add(row)
    connection.execute(sa.delete(questions).where(questions.c.platform == platform, questions.c.sender_id == sender_id))
    for erased in by_chat.values():
        erased.message_ids |= cut_quotations(connection, erased.conversation, erased.names)
        erase_derived(connection, erased)
    connection.execute(sa.update(messages).where(*own, messages.c.received_at >= now - MAY_COME_AGAIN).values(recalled_at=now, **_MARK))
    connection.execute(sa.delete(messages).where(*own))
    _forget_mentions(connection, platform, sender_id)
    return len(rows)


def erase_before(connection: Connection, limit: datetime, now: datetime) -> tuple[int, int]:
    """Delete what came before ``limit``: messages, questions with all that hangs on them, replies; and what later questions show of it, but for those that a reply may still be
    made of. Returns the number of messages, and of what was derived of them.

    Privacy notices stay: they hold no member's words, and without them the groups would be told again.
    """
    said = sa.not_(replies.c.idempotency_key.startswith(NOTICE_PREFIX, autoescape=True))
    derived = [sa.delete(questions).where(questions.c.created_at < limit), sa.delete(replies).where(replies.c.created_at < limit, said)]
    erased = sum(connection.execute(deletion).rowcount for deletion in derived)
    count = connection.execute(sa.delete(messages).where(messages.c.received_at < limit)).rowcount
    return count, erased + _erase_old_lines(connection, now - _UNDER_WAY)


def _erase_old_lines(connection: Connection, until: datetime) -> int:
    """Leave those lines out of the contexts of questions recorded before ``until`` whose messages are in the inbox no more: nobody's wish would find them. Returns how many
    questions lost some.
    """
    count, last = 0, ""
    columns = (questions.c.id, questions.c.platform, questions.c.chat_id, questions.c.text, questions.c.context)
    while True:
        page = connection.execute(sa.select(*columns).where(questions.c.created_at < until, questions.c.id > last).order_by(questions.c.id).limit(_PAGE)).all()
        shown = {(row.platform, row.chat_id, line["message_id"]) for row in page for line in row.context if line["message_id"]}
        gone: dict[ConversationKey, set[str]] = {}
        for platform, chat_id, message_id in shown - stored_messages(connection, shown):
            gone.setdefault(ConversationKey(platform, chat_id), set()).add(message_id)
        for conversation, ids in gone.items():
            count += _erase_lines(connection, Erased(conversation, ids), [row for row in page if (row.platform, row.chat_id) == conversation])
        if len(page) < _PAGE:
            return count
        last = page[-1].id


def erase_derived(connection: Connection, erased: Erased, prefilter: sa.ColumnElement[bool] | None = None) -> None:
    """Take the erased texts out of contexts, rewrites, labels and replies of a conversation. ``prefilter``: which questions may carry them at all."""
    here = (questions.c.platform == erased.conversation.platform, questions.c.chat_id == erased.conversation.chat_id)
    last = ""
    while True:
        page = connection.execute(
            sa.select(questions.c.id, questions.c.text, questions.c.context)
            .where(*here, questions.c.id > last, *(() if prefilter is None else (prefilter,)))
            .order_by(questions.c.id)
            .limit(_PAGE)
        ).all()
        _erase_lines(connection, erased, page)
        if len(page) < _PAGE:
            break
        last = page[-1].id
    _erase_replies(connection, erased)


def _erase_lines(connection: Connection, erased: Erased, page: Iterable[Any]) -> int:
    """Leave the erased lines out of the contexts of ``page`` (rows of id, text, context). Returns how many of them lost some."""
    contexts: list[dict[str, Any]] = []
    losses: dict[str, _Loss] = {}
    for row in page:
        kept = [line for line in row.context if not erased.carries(line)]
        gone = [line for line in row.context if erased.carries(line)]
        if gone:
            contexts.append({"in_question": row.id, "lines": kept, "quote_gone": any(line["is_reply_target"] for line in gone)})
            losses[row.id] = _Loss(row.text, _texts(gone), f"{row.text}\n{_texts(kept)}")
    if losses:
        connection.execute(_KEEP_LINES, contexts)
        _erase_borrowed(connection, losses)
    return len(losses)


@dataclass(frozen=True, slots=True)
class _Loss:
    """What the context of a question lost, and what it still says."""

    question: str
    gone: str
    still_there: str

    def shows_in(self, text: str | None) -> bool:
        """True when ``text``, a rewrite of the question, took words out of the lost lines."""
        if text is None:
            return False
        # A piece may be more than what it took: "那个模型" becomes "RTMPose的模型".
        whole = any(piece in self.gone and piece not in self.still_there for piece in _added(self.question, text))
        return whole or takes_from(self.question, text, self.gone, self.still_there)


def _erase_borrowed(connection: Connection, losses: dict[str, _Loss]) -> None:
    """Blank the rewrites, by whomever, that took words out of lost lines, and the replies that were made of them.

    Their rows stay: a question is not to be resolved, labelled or replied to again for it.
    """
    for table, key, columns, blank in _BORROWERS:
        rows = connection.execute(
            sa.select(table.c[key].label("key"), table.c.question_id.label("question"), *(table.c[name] for name in columns)).where(table.c.question_id.in_(losses))
        )
        borrowing = [row for row in rows.mappings() if any(losses[row["question"]].shows_in(row[name]) for name in columns)]
        if borrowing:
            connection.execute(sa.update(table).where(table.c[key].in_([row["key"] for row in borrowing])).values(**blank))
        if table is rewrites:
            _blank_replies(connection, replies.c.idempotency_key.in_([f"{REPLY_PREFIX}{row['question']}" for row in borrowing]))


def without_erased(resolution: Resolution, seen: Sequence[ContextLine], question: Any | None) -> Resolution:
    """``resolution`` without words of those lines among ``seen``, which it was made of, that its ``question`` (a row of text and context; None: erased itself) has lost since."""
    if question is not None:
        kept = {(line["message_id"], line["text"]) for line in question.context}
        gone = "\n".join(line.text for line in seen if (line.message_id, line.text) not in kept)
        loss = _Loss(question.text, gone, f"{question.text}\n{_texts(question.context)}")
        if not gone or not any(map(loss.shows_in, (resolution.candidate, resolution.rewrite))):
            return resolution
    return replace(resolution, candidate=None, rewrite=None, invented=(), reason=RefusalReason.NO_CONTEXT)


def without_lost_words(rewrite: str | None, seen: int, question: Any) -> str | None:
    """``rewrite``, by somebody who saw so many context lines of ``question`` (a row of text and context); None where some were erased since and it says what no line left says."""
    if rewrite is None or len(question.context) >= seen:
        return rewrite
    left = f"{question.text}\n{_texts(question.context)}"
    return rewrite if all(piece in left for piece in _added(question.text, rewrite)) else None


def _texts(lines: Iterable[dict[str, Any]]) -> str:
    return "\n".join(line["text"] for line in lines)


def _added(question: str, rewrite: str) -> list[str]:
    """The pieces of ``rewrite`` that ``question`` has not."""
    changes = SequenceMatcher(None, question, rewrite, autojunk=False).get_opcodes()
    return [piece for tag, _, _, start, end in changes if tag in ("insert", "replace") and (piece := rewrite[start:end].strip())]


def _erase_replies(connection: Connection, erased: Erased) -> None:
    """Replies to erased messages lose their text and are not sent any more; their keys stay, so that none is queued again."""
    here = (replies.c.platform == erased.conversation.platform, replies.c.chat_id == erased.conversation.chat_id)
    for ids in _chunks(sorted(erased.message_ids)):
        _blank_replies(connection, *here, replies.c.reply_to.in_(ids))


def _blank_replies(connection: Connection, *concerned: sa.ColumnElement[bool]) -> None:
    connection.execute(sa.update(replies).where(*concerned, replies.c.state == "pending").values(state="expired"))
    connection.execute(sa.update(replies).where(*concerned).values(text="", error=None))


def _forget_mentions(connection: Connection, platform: str, sender_id: str) -> None:
    pattern = _json_piece(sender_id)
    concerned = (messages.c.platform == platform, sa.cast(messages.c.mentions, sa.Text).contains(pattern, autoescape=True))
    for row in connection.execute(sa.select(messages.c.id, messages.c.mentions).where(*concerned)).all():
        others = [mention for mention in row.mentions if mention != sender_id]
        connection.execute(sa.update(messages).where(messages.c.id == row.id).values(mentions=others or None))
    addressed = (replies.c.platform == platform, replies.c.mention == sender_id)
    connection.execute(sa.update(replies).where(*addressed, replies.c.state == "pending").values(state="expired"))
    connection.execute(sa.update(replies).where(*addressed).values(text="", mention=None, error=None))


def _mentions(erased: Erased) -> sa.ColumnElement[bool]:
    """Questions whose context may carry an erased line: the database looks, so that a long log need not be read."""
    context = sa.cast(questions.c.context, sa.Text)
    pieces = [*erased.message_ids, *erased.texts]
    return sa.or_(sa.false(), *(context.contains(_json_piece(piece), autoescape=True) for piece in pieces))


def _json_piece(text: str) -> str:
    """The beginning of ``text`` as it stands inside a stored JSON string (databases bound the length of a pattern)."""
    return json.dumps(text[:_PATTERN_LENGTH], ensure_ascii=False)[1:-1]


def _leave_mark(connection: Connection, recall: Recall, now: datetime) -> None:
    which = {"platform": recall.platform, "chat_id": recall.chat_id, "message_id": recall.message_id}
    connection.execute(insert_new(connection.dialect.name, messages), [{**_MARK, **which, "sent_at": recall.at, "received_at": now, "recalled_at": recall.at}])


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))
