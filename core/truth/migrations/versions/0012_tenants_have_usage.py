"""Tenants have usage, for their quotas"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0007"
branch_labels = None
depends_on = None

# Jobs are counted at the tenant's next admission. Where `counted_at` is empty, the orchestrator soon counts again.
_FILL = """
INSERT INTO tenant_usage (tenant_id, memories, bytes, jobs_at_most)
SELECT tenants.id, count(memories.id), coalesce(sum(memories.context_bytes + coalesce(memories.adapter_bytes, 0)), 0),
       2147483647
FROM tenants LEFT JOIN memories ON memories.tenant_id = tenants.id AND memories.deleted_at IS NULL
GROUP BY tenants.id
"""


def upgrade() -> None:
    counter = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "tenant_usage",
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("memories", counter, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("jobs_at_most", counter, nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_tenant_usage_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenant_usage")),
    )
    op.create_index(op.f("ix_tenant_usage_counted_at"), "tenant_usage", ["counted_at"])
    op.execute(_FILL)


def downgrade() -> None:
    op.drop_table("tenant_usage")
