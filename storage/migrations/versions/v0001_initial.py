"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _conversations()
    _questions()
    _judgements()
    _labels()
    _replies()


def downgrade() -> None:
    for table in ("members", "replies", "labels", "rewrites", "verdicts", "questions", "messages", "chats"):
        op.drop_table(table)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, TIME, nullable=nullable)


def _row_id() -> sa.Column[int]:
    return sa.Column("id", ROW_ID, primary_key=True, autoincrement=True)


def _of_question(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["question_id"], ["questions.id"], name=f"fk_{table}_question_id", ondelete="CASCADE")


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _conversations() -> None:
    op.create_table(
        "chats",
        _text("platform"),
        _text("chat_id"),
        _text("name"),
        _time("first_seen_at"),
        sa.PrimaryKeyConstraint("platform", "chat_id", name="pk_chats"),
    )
    op.create_table(
        "messages",
        _row_id(),
        *[_text(name) for name in ("platform", "chat_id", "message_id", "sender_id", "sender_name", "kind", "text")],
        _time("sent_at"),
        _time("received_at"),
        sa.Column("mentions", sa.JSON(none_as_null=True)),
        *[_text(name, nullable=True) for name in ("reply_to", "thread_id", "utterance_id")],
        _time("recalled_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        sa.UniqueConstraint("platform", "chat_id", "message_id", name="uq_messages_platform_chat_id_message_id"),
    )
    op.create_index("ix_messages_conversation", "messages", ["platform", "chat_id", "id"])
    _partial_index("ix_messages_unmerged", "messages", ["id"], "utterance_id IS NULL AND recalled_at IS NULL")
    op.create_table(
        "members",
        _text("platform"),
        _text("sender_id"),
        _time("opted_out_at", nullable=True),
        sa.PrimaryKeyConstraint("platform", "sender_id", name="pk_members"),
    )


def _questions() -> None:
    op.create_table(
        "questions",
        *[_text(name) for name in ("id", "platform", "chat_id", "chat_name", "sender_id", "sender", "text")],
        _time("asked_at"),
        *[sa.Column(name, sa.JSON(), nullable=False) for name in ("context", "message_ids", "glossary")],
        _text("rule"),
        _text("status"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_questions"),
    )
    op.create_index("ix_questions_asked", "questions", ["asked_at", "id"])
    op.create_index("ix_questions_conversation", "questions", ["platform", "chat_id", "asked_at"])
    _partial_index("ix_questions_unfinished", "questions", ["asked_at", "id"], "status != 'done'")


def _judgements() -> None:
    op.create_table(
        "verdicts",
        _row_id(),
        *[_text(name) for name in ("question_id", "model", "adapter", "prompt_version", "stage")],
        *[sa.Column(name, sa.Double(), nullable=False) for name in ("probability", "threshold", "latency_ms")],
        _time("judged_at"),
        sa.PrimaryKeyConstraint("id", name="pk_verdicts"),
        _of_question("verdicts"),
    )
    op.create_index("ix_verdicts_question", "verdicts", ["question_id", "id"])
    op.create_table(
        "rewrites",
        _row_id(),
        _text("question_id"),
        _text("candidate", nullable=True),
        _text("rewrite", nullable=True),
        sa.Column("confidence", sa.Double(), nullable=False),
        _text("reason", nullable=True),
        sa.Column("invented", sa.JSON(), nullable=False),
        *[_text(name) for name in ("model", "adapter", "prompt_version")],
        sa.Column("latency_ms", sa.Double(), nullable=False),
        _time("resolved_at"),
        sa.PrimaryKeyConstraint("id", name="pk_rewrites"),
        _of_question("rewrites"),
    )
    op.create_index("ix_rewrites_question", "rewrites", ["question_id", "id"])


def _labels() -> None:
    op.create_table(
        "labels",
        _row_id(),
        *[_text(name) for name in ("question_id", "labeller", "label")],
        _text("rewrite", nullable=True),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_labels"),
        _of_question("labels"),
    )
    op.create_index("ix_labels_question", "labels", ["question_id", "id"])
    op.create_index("ix_labels_labeller", "labels", ["labeller", "id"])


def _replies() -> None:
    op.create_table(
        "replies",
        _row_id(),
        *[_text(name) for name in ("idempotency_key", "platform", "chat_id", "text")],
        *[_text(name, nullable=True) for name in ("reply_to", "mention")],
        _text("state"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _time("due_at"),
        _time("created_at"),
        _time("sent_at", nullable=True),
        *[_text(name, nullable=True) for name in ("platform_message_id", "error")],
        sa.PrimaryKeyConstraint("id", name="pk_replies"),
        sa.UniqueConstraint("idempotency_key", name="uq_replies_idempotency_key"),
    )
    _partial_index("ix_replies_due", "replies", ["platform", "due_at"], "state = 'pending'")
