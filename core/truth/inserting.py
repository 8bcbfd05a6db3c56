"""Many rows in one statement whose text and parameters do not grow with them.

PostgreSQL gets the rows as one JSON array: a list of thousands of placeholders takes the client longer to write, and
both sides longer to read, than the rows take to insert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import JSON, Connection, Insert, Row, Table, bindparam, column, func, insert, select

from core.truth.clock import now


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *stamped: str) -> None:
    """Inserts rows, which have the same columns, in their order; `stamped` columns become the transaction's time.

    Values are what JSON has: texts, numbers, truth values, documents of them.
    """
    _execute(connection, table, rows, stamped, returning=False)


def insert_returning(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *stamped: str
) -> Sequence[Row[Any]]:
    """As `insert_rows`; the new rows, whole."""
    return _execute(connection, table, rows, stamped, returning=True).all() if rows else []


def _execute(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    stamped: tuple[str, ...],
    *,
    returning: bool,
) -> Any:
    if not rows:
        return None
    if connection.dialect.name == "postgresql":
        return connection.execute(_from_array(table, tuple(rows[0]), stamped, returning), {"rows": list(rows)})
    statement = insert(table).values(dict.fromkeys(stamped, now()))
    return connection.execute(statement.returning(*table.c) if returning else statement, list(rows))


@cache
def _from_array(table: Table, names: tuple[str, ...], stamped: tuple[str, ...], returning: bool) -> Insert:
    array = func.json_to_recordset(bindparam("rows", type_=JSON))
    given = array.table_valued(*(column(name, table.c[name].type) for name in names))
    typed = given.render_derived(name="given", with_types=True)
    statement = insert(table).from_select([*names, *stamped], select(*typed.c, *(now() for _ in stamped)))
    return statement.returning(*table.c) if returning else statement
