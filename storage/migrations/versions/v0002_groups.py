"""What admins switched in a group, and complaints of members."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "group_settings",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("chat_id", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("reply", sa.Text(), nullable=True),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("platform", "chat_id", name="pk_group_settings"),
    )
    op.create_table(
        "complaints",
        sa.Column("question_id", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("question_id", name="pk_complaints"),
        sa.ForeignKeyConstraint(["question_id"], ["questions.id"], name="fk_complaints_question_id", ondelete="CASCADE"),
    )


def downgrade() -> None:
    op.drop_table("complaints")
    op.drop_table("group_settings")
