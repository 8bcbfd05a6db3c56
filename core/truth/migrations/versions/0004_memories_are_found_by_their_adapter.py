"""Memories are found by their adapter"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_memories_adapter_digest", "memories", ["adapter_digest"])


def downgrade() -> None:
    op.drop_index("ix_memories_adapter_digest", "memories")
