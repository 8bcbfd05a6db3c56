"""Alembic's entry: runs the migrations on the connection that `core/truth/schema.py` opened."""

from __future__ import annotations

from alembic import context

from core.truth.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
    # On SQLite all of them are in the one transaction that is open already.
    transaction_per_migration=connection.dialect.name == "postgresql",
)
with context.begin_transaction():
    context.run_migrations()
