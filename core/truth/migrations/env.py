"""Alembic's entry: runs the migrations on the connection, and in the transaction, that `Database.migrate` opened."""

from __future__ import annotations

from alembic import context

from core.truth.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
