"""Dispatch finds its jobs by indexes that hold no others"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from core.truth.schema import add_index

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_INDEXES: dict[str, tuple[list[Any], str]] = {
    "waiting": (
        ["tenant_id", sa.text("priority DESC"), "created_at", "id"],
        "state = 'queued' AND dispatched_at IS NULL",
    ),
    "dispatched": (["dispatched_at", "created_at", "id"], "state = 'queued' AND dispatched_at IS NOT NULL"),
    "running": (["lease_until"], "state = 'running'"),
}


def upgrade() -> None:
    for name, (columns, which) in _INDEXES.items():
        add_index(f"ix_jobs_{name}", "jobs", columns, which)


def downgrade() -> None:
    for name in _INDEXES:
        op.drop_index(f"ix_jobs_{name}", "jobs")
