"""The truth as one file, of one moment, while processes go on writing: SQLite's online backup, or pg_dump."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.engine import URL

from core.errors import Conflict, SetupError, StorageError
from core.truth.database import Database
from core.truth.postgresql import at_leisure

_MOST_WORDS = 600


@contextmanager
def copied(database: Database, path: Path) -> Iterator[Connection]:
    """Writes the truth to `path`, and gives a connection that reads exactly what is in that file."""
    if database.url.get_backend_name() == "sqlite":
        _copy_sqlite(Path(str(database.url.database)), path)
        frozen = Database(f"sqlite:///{path}")
        try:
            with frozen.read() as connection:
                yield connection
        finally:
            frozen.dispose()
        return
    with database.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        at_leisure(connection)
        snapshot = connection.execute(select(func.pg_export_snapshot())).scalar_one()
        _run(["pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={path}"], database.url)
        yield connection


def put_back(path: Path, database: Database) -> None:
    """Fills an empty database from the file. Raises `Conflict` where it is not empty: nothing is ever overwritten."""
    with database.read() as connection:
        if inspect(connection).get_table_names():
            raise Conflict("The database is not empty; restore into a new one.")
    if database.url.get_backend_name() == "sqlite":
        database.dispose()
        _copy_sqlite(path, Path(str(database.url.database)))
    else:
        _run(["pg_restore", "--single-transaction", "--exit-on-error", str(path)], database.url)


def _copy_sqlite(source: Path, target: Path) -> None:
    """All pages under one read lock, which in WAL mode holds up no writer."""
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


def _run(command: list[str], url: URL) -> None:
    """Runs one of PostgreSQL's own programs on the database; the password goes by the environment."""
    program = shutil.which(command[0])
    if program is None:
        raise SetupError(f"{command[0]} is not installed; run: apt-get install postgresql-client")
    address = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    whole = [program, "--no-owner", "--no-privileges", f"--dbname={address}", *command[1:]]
    done = subprocess.run(whole, env=_environment(url), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StorageError(f"{command[0]} failed: {' '.join(done.stderr.split())[:_MOST_WORDS]}")


def _environment(url: URL) -> Mapping[str, str]:
    return {**os.environ, **({"PGPASSWORD": url.password} if url.password else {})}
