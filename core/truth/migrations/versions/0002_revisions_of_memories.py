"""Revisions of memories"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "revisions",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("metadata", DOCUMENT, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("context_key", sa.Text(), nullable=False),
        sa.Column("context_sha256", sa.String(length=64), nullable=False),
        sa.Column("context_bytes", sa.BigInteger(), nullable=False),
        sa.Column("context_tokens", sa.Integer(), nullable=False),
        sa.Column("base_digest", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_revisions_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_revisions")),
    )


def downgrade() -> None:
    op.drop_table("revisions")
