"""The version of the tables: which one a database has, and the way to the newest, beside processes that go on working.

Every migration only adds (a test holds it), so that processes of the version before work on with the new tables, and
so do they after a step back. On PostgreSQL each migration is a transaction of its own that waits for no table lock
longer than `LOCK_SECONDS`: a lock that is waited for holds up everybody who comes after it. It then lets go, and tries
again. Large tables get their indexes by `add_index`, which blocks nobody.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, TextClause, func, select, text
from sqlalchemy.exc import OperationalError

from core.errors import SetupError, Unavailable
from core.logs import get_logger
from core.truth.postgresql import unhurried

if TYPE_CHECKING:
    from core.truth.database import Database

LOCK_SECONDS = 0.5
"""Less than PostgreSQL's `deadlock_timeout`, after which it would choose whom to break off."""
_PATIENCE_SECONDS = 600.0
_PAUSE_SECONDS = 0.5
_OURS = re.compile(r"[0-9]{4}")
_LOCK_NOT_AVAILABLE = "55P03"
_LOCK = crc32(b"latentbank.migrate.session")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Schema:
    """`current` is the database's revision, `None` of an empty one; `head` is the code's; `pending` leads there.

    `newer`: another LatentBank than this has migrated the database already.
    """

    current: str | None
    head: str
    pending: tuple[str, ...]
    newer: bool = False


def schema_of(database: Database) -> Schema:
    """Raises `SetupError` where the tables are another application's."""
    script = ScriptDirectory.from_config(_config())
    head = str(script.get_current_head())
    with database.read() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    ours = [revision.revision for revision in script.walk_revisions()][::-1]
    if current is None:
        return Schema(None, head, tuple(ours))
    if current in ours:
        return Schema(current, head, tuple(ours[ours.index(current) + 1 :]))
    if not _OURS.fullmatch(current):
        raise SetupError(
            f"The database's tables are at revision {current!r}, which no LatentBank knows: another application's? Set "
            "LATENTBANK_DATABASE_URL to a database of its own."
        )
    return Schema(current, head, (), newer=True)


def ready_for_work(database: Database, *, migrate: bool) -> None:
    """What a process does at its start: migrates, or with `migrate` off refuses tables that are too old.

    Tables of a newer LatentBank are worked with: they have all that this one knows. Raises `SetupError`.
    """
    schema = schema_of(database)
    if schema.newer:
        _log.warning("a newer LatentBank has migrated the database", database=schema.current, code=schema.head)
    elif not schema.pending:
        return
    elif migrate:
        upgrade(database)
    else:
        raise SetupError(
            f"The database is at revision {schema.current or 'none'}, and this code needs {schema.head}; run: "
            "latentbank migrate upgrade"
        )


def upgrade(
    database: Database, to: str = "head", *, lock_seconds: float = LOCK_SECONDS, patience_seconds: float | None = None
) -> None:
    """Brings the tables to revision `to`, or leaves newer ones alone; safe where several processes do it at once.

    Raises `Unavailable` where transactions of others left no moment for it in `patience_seconds` (ten minutes).
    """
    if schema_of(database).newer:
        return
    if database.url.get_backend_name() == "sqlite":
        with database.begin() as connection:
            command.upgrade(_config(connection), to)
        return
    give_up = time.monotonic() + (_PATIENCE_SECONDS if patience_seconds is None else patience_seconds)
    with _alone(database, give_up):
        while not _tried(database, to, lock_seconds):
            if time.monotonic() >= give_up:
                raise Unavailable(
                    "The tables are in use without a pause; the migration goes on when it is tried again."
                )
            time.sleep(_PAUSE_SECONDS)


def add_index(name: str, table: str, columns: Sequence[str | TextClause], which: str | None = None) -> None:
    """For migrations, of a table that may be large: on PostgreSQL readers and writers go on while it is built.

    `which` is the condition of the rows that it holds. It is outside of the migration's transaction, so it comes last;
    one that broke off half built is built anew.
    """
    connection = op.get_bind()
    where = None if which is None else text(which)
    if connection.dialect.name != "postgresql":
        op.create_index(name, table, list(columns), if_not_exists=True, sqlite_where=where)
        return
    with op.get_context().autocommit_block():
        broken = text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
        connection = op.get_bind()
        patience = connection.execute(text("SHOW lock_timeout")).scalar_one()
        connection.execute(text("SET lock_timeout = 0"))
        if connection.execute(broken, {"name": name}).first() is not None:
            op.drop_index(name, table, postgresql_concurrently=True)
        op.create_index(
            name, table, list(columns), postgresql_concurrently=True, if_not_exists=True, postgresql_where=where
        )
        # The next migration may follow on the same connection.
        connection.execute(text(f"SET lock_timeout = '{patience}'"))


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _tried(database: Database, to: str, lock_seconds: float) -> bool:
    """Whether all migrations went through; False where a lock was not to be had, and those before it went through."""
    with database.connect() as connection, unhurried(connection):
        connection.execute(text(f"SET lock_timeout = {round(1000 * lock_seconds)}"))
        connection.commit()
        try:
            command.upgrade(_config(connection), to)
        except OperationalError as problem:
            if getattr(problem.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            _log.info("a migration lets others go first")
            return False
        finally:
            # The connection goes back to the pool as it was.
            connection.invalidate()
    return True


@contextmanager
def _alone(database: Database, give_up: float) -> Iterator[None]:
    """Holds the migrators' lock in a session of its own.

    Waiting for it inside a statement would hold a snapshot, for whose end an index that is built beside us would wait.
    """
    with database.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        while not autocommit.execute(select(func.pg_try_advisory_lock(_LOCK))).scalar_one():
            if time.monotonic() >= give_up:
                raise Unavailable("Another process migrates the database, and has for ten minutes; look for it.")
            time.sleep(_PAUSE_SECONDS)
        try:
            yield
        finally:
            connection.invalidate()
