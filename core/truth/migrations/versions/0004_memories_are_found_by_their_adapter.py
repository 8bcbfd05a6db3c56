"""Memories are found by their adapter"""

from __future__ import annotations

from alembic import op

from core.truth.schema import add_index

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_index("ix_memories_adapter_digest", "memories", ["adapter_digest"])


def downgrade() -> None:
    op.drop_index("ix_memories_adapter_digest", "memories")
