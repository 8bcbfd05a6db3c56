"""Deletions are attested, step by step"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_STEPS = ("tombstoned_at", "draining_at", "drained_at", "purged_at", "attested_at")


def upgrade() -> None:
    instant = sa.DateTime(timezone=True)
    op.add_column("tenants", sa.Column("deleted_at", instant, nullable=True))
    op.add_column("memories", sa.Column("deletion_id", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_memories_deletion_id_purged_at"), "memories", ["deletion_id", "purged_at"])
    op.create_index(op.f("ix_memories_status_purged_at_id"), "memories", ["status", "purged_at", "id"])
    op.drop_index(op.f("ix_memories_status_purged_at"), "memories")
    op.create_table(
        "deletions",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("target", sa.String(length=128), nullable=False),
        sa.Column("collection", sa.Text(), nullable=True),
        sa.Column("memories", sa.Integer(), nullable=False),
        sa.Column("deleted_at", instant, nullable=False),
        *(sa.Column(step, instant, nullable=True) for step in _STEPS),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_deletions_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deletions")),
    )
    for columns in (("tenant_id", "deleted_at", "id"), ("attested_at", "deleted_at", "id")):
        op.create_index(op.f(f"ix_deletions_{'_'.join(columns)}"), "deletions", list(columns))
    # Their objects are gone, but not what their rows say: the orchestrator goes over them again.
    op.execute("UPDATE memories SET purged_at = NULL WHERE status = 'deleted'")


def downgrade() -> None:
    op.drop_table("deletions")
    op.create_index(op.f("ix_memories_status_purged_at"), "memories", ["status", "purged_at"])
    op.drop_index(op.f("ix_memories_status_purged_at_id"), "memories")
    op.drop_index(op.f("ix_memories_deletion_id_purged_at"), "memories")
    op.drop_column("memories", "deletion_id")
    op.drop_column("tenants", "deleted_at")
