"""Pages of lists that start with the newest."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, ColumnElement, Connection, Table, select, tuple_

from core.errors import InvalidRequest


def older_than(
    connection: Connection, table: Table, tenant_id: str, after: str, at: Column[datetime] | None = None
) -> ColumnElement[bool]:
    """The rows after `after` in a list that is ordered by `at` (default: `created_at`) and id.

    Raises `InvalidRequest` for an id that is not of this tenant.
    """
    at = table.c.created_at if at is None else at
    last = connection.execute(
        select(at, table.c.id).where(table.c.id == after, table.c.tenant_id == tenant_id)
    ).one_or_none()
    if last is None:
        raise InvalidRequest(f"There is nothing with the id '{after}' to list after.", param="after")
    return tuple_(at, table.c.id) < tuple_(last[0], last[1])
