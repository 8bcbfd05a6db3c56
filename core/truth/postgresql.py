"""Connections to PostgreSQL that neither wait for ever nor are waited for.

A server, or the network before it, may take a question and never answer: the kernel then waits for a quarter of an
hour, or without end. A process may be stopped, or its machine be gone, in the middle of a transaction: the server then
keeps its locks just as long, and a lost job could not be taken back. Both are over after `tcp_user_timeout` of the URL,
in milliseconds (libpq's own parameter); 20 seconds where the URL has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from sqlalchemy import Connection, text

SECONDS = 20.0

_CONNECT_SECONDS = 10
_KEEPALIVE_SECONDS = 5


class BoundedConnection(psycopg.Connection[Any]):
    """Breaks, with an `OperationalError`, where one answer takes longer than `answer_seconds`; `None`: never."""

    answer_seconds: float | None = SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.answer_seconds)
        except errors._WaitTimeout as silence:
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {self.answer_seconds} s") from silence


def connect_postgresql(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> BoundedConnection:
    """A listener to SQLAlchemy's `do_connect`."""
    seconds = float(options.get("tcp_user_timeout", SECONDS * 1000)) / 1000
    kept: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "keepalives_idle": _KEEPALIVE_SECONDS,
        "keepalives_interval": _KEEPALIVE_SECONDS,
        "keepalives_count": 3,
        "tcp_user_timeout": int(seconds * 1000),
    }
    connection = BoundedConnection.connect(*arguments, **(kept | options))
    connection.answer_seconds = seconds
    connection.execute(f"SET idle_in_transaction_session_timeout = {int(seconds * 1000)}")
    connection.commit()
    return connection


def at_leisure(connection: Connection) -> None:
    """The server waits in this transaction for as long as what we do meanwhile takes: for reading all of the truth."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


@contextmanager
def unhurried(connection: Connection) -> Iterator[None]:
    """Answers may take as long as they do: for migrations, which may rewrite a table."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, BoundedConnection):
        yield
        return
    before, driver.answer_seconds = driver.answer_seconds, None
    try:
        yield
    finally:
        driver.answer_seconds = before
