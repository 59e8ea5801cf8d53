"""The data loop: verdicts judged again, the review queue, second looks and adjudications of labels, runs of periodic jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("verdicts", sa.Column("relabelled", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("ix_labels_question_labeller", "labels", ["question_id", "labeller"])
    op.create_table(
        "review_queue",
        _text("question_id"),
        _text("reason"),
        sa.Column("priority", sa.Double(), nullable=False),
        _text("detail"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("question_id", name="pk_review_queue"),
        _of_question("review_queue"),
    )
    op.create_index("ix_review_queue_priority", "review_queue", ["priority", "question_id"])
    op.create_table(
        "label_repeats",
        _text("question_id"),
        _text("labeller"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("question_id", "labeller", name="pk_label_repeats"),
        _of_question("label_repeats"),
    )
    op.create_index("ix_label_repeats_labeller", "label_repeats", ["labeller", "created_at"])
    op.create_table(
        "adjudications",
        _text("question_id"),
        _text("label"),
        _text("rewrite", nullable=True),
        _text("adjudicator"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("question_id", name="pk_adjudications"),
        _of_question("adjudications"),
    )
    op.create_table(
        "job_schedules",
        _text("name"),
        _text("cron"),
        _time("due_after"),
        sa.PrimaryKeyConstraint("name", name="pk_job_schedules"),
    )
    op.create_table(
        "job_runs",
        _text("name"),
        _time("began_at"),
        _time("ended_at", nullable=True),
        _text("outcome"),
        sa.PrimaryKeyConstraint("name", name="pk_job_runs"),
    )


def downgrade() -> None:
    for table in ("job_runs", "job_schedules", "adjudications", "label_repeats", "review_queue"):
        op.drop_table(table)
    op.drop_index("ix_labels_question_labeller", "labels")
    op.drop_column("verdicts", "relabelled")


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, TIME, nullable=nullable)


def _of_question(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["question_id"], ["questions.id"], name=f"fk_{table}_question_id", ondelete="CASCADE")
