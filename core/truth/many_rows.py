"""Many rows in one statement whose text and parameters do not grow with them.

PostgreSQL gets the rows as one JSON array: a list of thousands of placeholders takes the client longer to write, and
both sides longer to read, than the rows take to insert. SQLite, which has no way to go, gets them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    Insert,
    Row,
    Table,
    TableValuedAlias,
    bindparam,
    column,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.types import TypeEngine

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
    given = _array({name: table.c[name].type for name in names})
    statement = insert(table).from_select([*names, *stamped], select(*given.c, *(now() for _ in stamped)))
    return statement.returning(*table.c) if returning else statement


class RowUpdate:
    """An update of many rows of `table`, each by values of its own.

    `key` is the column that tells a row; `given` says what comes with it, by name and type; `values` makes of that what
    is written. Rows are locked in any order: the caller has locked them.
    """

    def __init__(
        self,
        table: Table,
        key: str,
        given: Mapping[str, TypeEngine[Any]],
        values: Callable[[Mapping[str, ColumnElement[Any]]], Mapping[str, Any]],
    ) -> None:
        array = _array({key: table.c[key].type, **given})
        theirs = {name: array.c[name] for name in given}
        self._at_once = update(table).where(table.c[key] == array.c[key]).values(dict(values(theirs)))
        ours: dict[str, ColumnElement[Any]] = {n: bindparam(f"given_{n}", type_=type_) for n, type_ in given.items()}
        self._each = update(table).where(table.c[key] == bindparam(f"given_{key}")).values(dict(values(ours)))

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        if connection.dialect.name == "postgresql":
            connection.execute(self._at_once, {"rows": list(rows)})
        else:
            connection.execute(self._each, [{f"given_{name}": row[name] for name in row} for row in rows])


def _array(types: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    array = func.json_to_recordset(bindparam("rows", type_=JSON))
    given = array.table_valued(*(column(name, type_) for name, type_ in types.items()))
    return given.render_derived(name="given", with_types=True)
