"""The tables. Portable between SQLite and PostgreSQL; ``storage/migrations`` creates them.

::

    chats ─ messages ─(utterance_id)─ questions ┬─ verdicts   many per question, the newest is current
                                                ├─ rewrites   many per question, the newest is current
                                                ├─ labels     many per question, the newest is current
                                                ├─ adjudications  the last word where labellers disagree; at most one per question
                                                ├─ label_repeats  questions that a labeller sees a second time, to measure agreement with oneself
                                                ├─ review_queue   what deserves a human eye first; at most one entry per question
                                                └─ complaints a member called the reply wrong; at most one per question
    replies   the outbox            members   consent           group_settings   what admins switched in a group
    job_schedules   from when on each periodic job is due      job_runs   its last run
    announcements   ids of messages that a platform has named and that are not fetched yet

Times are aware datetimes in UTC on the Python side. Row ids ascend in order of arrival.
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored in UTC (SQLite has no time zones: there it is stored without one)."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is UTC:
            return value
        if value.tzinfo is None:
            raise ValueError("a time without a time zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _row_id() -> sa.Column[int]:
    return sa.Column("id", _ROW_ID, primary_key=True, autoincrement=True)


def _question_id() -> sa.Column[str]:
    return sa.Column("question_id", sa.Text(), sa.ForeignKey("questions.id", ondelete="CASCADE"), nullable=False)


chats = sa.Table(
    "chats",
    metadata,
    sa.Column("platform", sa.Text(), primary_key=True),
    sa.Column("chat_id", sa.Text(), primary_key=True),
    sa.Column("name", sa.Text(), nullable=False),
    sa.Column("first_seen_at", UtcDateTime(), nullable=False),
)

messages = sa.Table(
    "messages",
    metadata,
    _row_id(),
    sa.Column("platform", sa.Text(), nullable=False),
    sa.Column("chat_id", sa.Text(), nullable=False),
    sa.Column("message_id", sa.Text(), nullable=False),
    sa.Column("sender_id", sa.Text(), nullable=False),
    sa.Column("sender_name", sa.Text(), nullable=False),
    sa.Column("kind", sa.Text(), nullable=False),
    sa.Column("text", sa.Text(), nullable=False),
    sa.Column("sent_at", UtcDateTime(), nullable=False),
    sa.Column("received_at", UtcDateTime(), nullable=False),
    sa.Column("mentions", sa.JSON(none_as_null=True)),
    sa.Column("reply_to", sa.Text()),
    sa.Column("thread_id", sa.Text()),
    sa.Column("utterance_id", sa.Text()),
    sa.Column("recalled_at", UtcDateTime()),
    sa.UniqueConstraint("platform", "chat_id", "message_id"),
)
sa.Index("ix_messages_conversation", messages.c.platform, messages.c.chat_id, messages.c.id)
_UNMERGED = sa.and_(messages.c.utterance_id.is_(None), messages.c.recalled_at.is_(None))
sa.Index("ix_messages_unmerged", messages.c.id, sqlite_where=_UNMERGED, postgresql_where=_UNMERGED)

questions = sa.Table(
    "questions",
    metadata,
    sa.Column("id", sa.Text(), primary_key=True),
    sa.Column("platform", sa.Text(), nullable=False),
    sa.Column("chat_id", sa.Text(), nullable=False),
    sa.Column("chat_name", sa.Text(), nullable=False),
    sa.Column("sender_id", sa.Text(), nullable=False),
    sa.Column("sender", sa.Text(), nullable=False),
    sa.Column("text", sa.Text(), nullable=False),
    sa.Column("asked_at", UtcDateTime(), nullable=False),
    sa.Column("context", sa.JSON(), nullable=False),
    sa.Column("message_ids", sa.JSON(), nullable=False),
    sa.Column("glossary", sa.JSON(), nullable=False),
    sa.Column("rule", sa.Text(), nullable=False),
    sa.Column("quotes_unseen", sa.Boolean(), nullable=False, server_default=sa.false()),
    sa.Column("status", sa.Text(), nullable=False),
    sa.Column("created_at", UtcDateTime(), nullable=False),
)
sa.Index("ix_questions_asked", questions.c.asked_at, questions.c.id)
sa.Index("ix_questions_conversation", questions.c.platform, questions.c.chat_id, questions.c.asked_at)
_UNFINISHED = questions.c.status != "done"
sa.Index("ix_questions_unfinished", questions.c.asked_at, questions.c.id, sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED)

verdicts = sa.Table(
    "verdicts",
    metadata,
    _row_id(),
    _question_id(),
    sa.Column("model", sa.Text(), nullable=False),
    sa.Column("adapter", sa.Text(), nullable=False),
    sa.Column("prompt_version", sa.Text(), nullable=False),
    sa.Column("stage", sa.Text(), nullable=False),
    sa.Column("probability", sa.Double(), nullable=False),
    sa.Column("threshold", sa.Double(), nullable=False),
    sa.Column("latency_ms", sa.Double(), nullable=False),
    sa.Column("judged_at", UtcDateTime(), nullable=False),
    # False: what the bot acted on in the group; True: judged again later, which changes nothing there.
    sa.Column("relabelled", sa.Boolean(), nullable=False, server_default=sa.false()),
)
sa.Index("ix_verdicts_question", verdicts.c.question_id, verdicts.c.id)

rewrites = sa.Table(
    "rewrites",
    metadata,
    _row_id(),
    _question_id(),
    sa.Column("candidate", sa.Text()),
    sa.Column("rewrite", sa.Text()),
    sa.Column("confidence", sa.Double(), nullable=False),
    sa.Column("reason", sa.Text()),
    sa.Column("invented", sa.JSON(), nullable=False),
    sa.Column("model", sa.Text(), nullable=False),
    sa.Column("adapter", sa.Text(), nullable=False),
    sa.Column("prompt_version", sa.Text(), nullable=False),
    sa.Column("latency_ms", sa.Double(), nullable=False),
    sa.Column("resolved_at", UtcDateTime(), nullable=False),
)
sa.Index("ix_rewrites_question", rewrites.c.question_id, rewrites.c.id)

labels = sa.Table(
    "labels",
    metadata,
    _row_id(),
    _question_id(),
    sa.Column("labeller", sa.Text(), nullable=False),
    sa.Column("label", sa.Text(), nullable=False),
    sa.Column("rewrite", sa.Text()),
    sa.Column("created_at", UtcDateTime(), nullable=False),
)
sa.Index("ix_labels_question", labels.c.question_id, labels.c.id)
sa.Index("ix_labels_labeller", labels.c.labeller, labels.c.id)
sa.Index("ix_labels_question_labeller", labels.c.question_id, labels.c.labeller)

replies = sa.Table(
    "replies",
    metadata,
    _row_id(),
    sa.Column("idempotency_key", sa.Text(), nullable=False, unique=True),
    sa.Column("platform", sa.Text(), nullable=False),
    sa.Column("chat_id", sa.Text(), nullable=False),
    sa.Column("text", sa.Text(), nullable=False),
    sa.Column("reply_to", sa.Text()),
    sa.Column("mention", sa.Text()),
    sa.Column("state", sa.Text(), nullable=False),
    sa.Column("attempts", sa.Integer(), nullable=False),
    sa.Column("due_at", UtcDateTime(), nullable=False),
    sa.Column("created_at", UtcDateTime(), nullable=False),
    sa.Column("sent_at", UtcDateTime()),
    sa.Column("platform_message_id", sa.Text()),
    sa.Column("error", sa.Text()),
)
_PENDING = replies.c.state == "pending"
sa.Index("ix_replies_due", replies.c.platform, replies.c.due_at, sqlite_where=_PENDING, postgresql_where=_PENDING)

members = sa.Table(
    "members",
    metadata,
    sa.Column("platform", sa.Text(), primary_key=True),
    sa.Column("sender_id", sa.Text(), primary_key=True),
    sa.Column("opted_out_at", UtcDateTime()),
)

announcements = sa.Table(
    "announcements",
    metadata,
    _row_id(),
    sa.Column("platform", sa.Text(), nullable=False),
    sa.Column("message_id", sa.Text(), nullable=False),
    sa.Column("announced_at", UtcDateTime(), nullable=False),
    sa.UniqueConstraint("platform", "message_id"),
)

group_settings = sa.Table(
    "group_settings",
    metadata,
    sa.Column("platform", sa.Text(), primary_key=True),
    sa.Column("chat_id", sa.Text(), primary_key=True),
    sa.Column("enabled", sa.Boolean(), nullable=False),
    sa.Column("reply", sa.Text()),
    sa.Column("updated_at", UtcDateTime(), nullable=False),
)

complaints = sa.Table(
    "complaints",
    metadata,
    sa.Column("question_id", sa.Text(), sa.ForeignKey("questions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("created_at", UtcDateTime(), nullable=False),
)

review_queue = sa.Table(
    "review_queue",
    metadata,
    sa.Column("question_id", sa.Text(), sa.ForeignKey("questions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("reason", sa.Text(), nullable=False),
    sa.Column("priority", sa.Double(), nullable=False),
    sa.Column("detail", sa.Text(), nullable=False),
    sa.Column("created_at", UtcDateTime(), nullable=False),
)
sa.Index("ix_review_queue_priority", review_queue.c.priority, review_queue.c.question_id)

label_repeats = sa.Table(
    "label_repeats",
    metadata,
    sa.Column("question_id", sa.Text(), sa.ForeignKey("questions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("labeller", sa.Text(), primary_key=True),
    sa.Column("created_at", UtcDateTime(), nullable=False),
)
sa.Index("ix_label_repeats_labeller", label_repeats.c.labeller, label_repeats.c.created_at)

adjudications = sa.Table(
    "adjudications",
    metadata,
    sa.Column("question_id", sa.Text(), sa.ForeignKey("questions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("label", sa.Text(), nullable=False),
    sa.Column("rewrite", sa.Text()),
    sa.Column("adjudicator", sa.Text(), nullable=False),
    sa.Column("created_at", UtcDateTime(), nullable=False),
)

job_schedules = sa.Table(
    "job_schedules",
    metadata,
    sa.Column("name", sa.Text(), primary_key=True),
    sa.Column("cron", sa.Text(), nullable=False),
    sa.Column("due_after", UtcDateTime(), nullable=False),
)

job_runs = sa.Table(
    "job_runs",
    metadata,
    sa.Column("name", sa.Text(), primary_key=True),
    sa.Column("began_at", UtcDateTime(), nullable=False),
    sa.Column("ended_at", UtcDateTime()),
    sa.Column("outcome", sa.Text(), nullable=False),
)
