"""The database: engine, transactions, migrations. SQLite in WAL mode or PostgreSQL by psycopg 3, by the URL alone."""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from sqlite3 import SQLITE_BUSY, OperationalError
from time import monotonic, sleep
from typing import Any
from zlib import crc32

from sqlalchemy import Connection, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import ConnectionPoolEntry

from core.truth.clock import now
from core.truth.postgresql import connect_postgresql
from core.truth.schema import upgrade

_BUSY_MILLISECONDS = 30_000


class Database:
    """One engine per process. Transactions are short and hold no network call but those to the database itself.

    Its errors name no values: they are logged, and the values are what tenants wrote.
    """

    def __init__(self, url: str) -> None:
        self.url = _with_driver(make_url(url))
        if self.url.get_backend_name() == "sqlite":
            if self.url.database in (None, "", ":memory:"):
                raise ValueError("The truth needs an SQLite file, several processes share it.")
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(self.url, hide_parameters=True)
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        else:
            self._engine = create_engine(self.url, hide_parameters=True, pool_pre_ping=True)
            event.listen(self._engine, "do_connect", connect_postgresql)
        self._writer = self._engine.execution_options(latentbank_writes=True)
        self._looker = self._engine
        if self._engine.dialect.name == "postgresql":
            self._looker = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        engine = weakref.ref(self._engine)
        os.register_at_fork(after_in_child=lambda: _forget_connections(engine()))

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write; commits at the end of the block, rolls back on any exception."""
        with self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads; waits for no writer on SQLite."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """For one statement that only reads: on PostgreSQL it costs no BEGIN and no COMMIT."""
        with self._looker.begin() as connection:
            yield connection

    def now(self, connection: Connection) -> datetime:
        """The database's clock, UTC."""
        return connection.execute(select(now())).scalar_one()

    def connect(self) -> Connection:
        """A connection without a transaction, for what can't be in one."""
        return self._engine.connect()

    def migrate(self) -> None:
        """Brings the tables to the newest version; safe where several processes do it at once."""
        upgrade(self)

    def flush_log(self) -> bool:
        """Brings what was overwritten out of SQLite's log, so that no earlier text is left in a file; whether it did.

        False while a reader needs the log. PostgreSQL does so by itself, as its vacuum and its log settings say.
        """
        if self._engine.dialect.name != "sqlite":
            return True
        with closing(sqlite3.connect(str(self.url.database), timeout=1.0)) as connection:
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def dispose(self) -> None:
        self._engine.dispose()


def exclusive(connection: Connection, name: str) -> None:
    """Waits until no other transaction holds `name`; held until the end of this one. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(crc32(b"latentbank." + name.encode()))))


def _with_driver(url: URL) -> URL:
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgres", "postgresql") else url


def _prepare_sqlite(connection: Any, entry: ConnectionPoolEntry) -> None:
    """Durable across power loss (`synchronous=FULL`); what is deleted is overwritten (`secure_delete`); transactions
    begin where `_begin_sqlite` says, not by guess."""
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
    _enter_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA secure_delete=ON")


def _enter_wal(connection: Any) -> None:
    """SQLite answers "locked" at once, whatever the busy timeout, where two connections turn one new file to WAL."""
    deadline = monotonic() + _BUSY_MILLISECONDS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except OperationalError as error:
            if error.sqlite_errorcode != SQLITE_BUSY or monotonic() > deadline:
                raise
            sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    """Writers take the write lock at once: a transaction that reads first and writes later could not be serialised."""
    writes = connection.get_execution_options().get("latentbank_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _forget_connections(engine: Any) -> None:
    """A forked child must not speak on its parent's connections."""
    if engine is not None:
        engine.dispose(close=False)
