"""Banks tell what changed, and how each memory is found"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from core.truth.schema import add_index

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    counter = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("memories", sa.Column("bank_revision", counter, nullable=True))
    op.create_table(
        "retrieval_records",
        sa.Column("memory_id", sa.String(length=64), nullable=False),
        sa.Column("adapter_digest", sa.Text(), nullable=False),
        sa.Column("encoder", sa.Text(), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("vectors", sa.LargeBinary(), nullable=False),
        sa.Column("terms", sa.LargeBinary(), nullable=False),
        sa.Column("samples", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["memory_id"], ["memories.id"], name=op.f("fk_retrieval_records_memory_id")),
        sa.PrimaryKeyConstraint("memory_id", name=op.f("pk_retrieval_records")),
    )
    # The last: what is outside of the transaction is done when all of it is.
    add_index("ix_memories_tenant_id_bank_revision", "memories", ["tenant_id", "bank_revision"])


def downgrade() -> None:
    op.drop_table("retrieval_records")
    op.drop_index(op.f("ix_memories_tenant_id_bank_revision"), "memories")
    op.drop_column("memories", "bank_revision")
