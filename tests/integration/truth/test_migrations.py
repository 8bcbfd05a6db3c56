"""Migrations beside processes that work: they only add, they wait for nobody long, and old statements go on."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, func, insert, inspect, select, text, update

import core.truth
from core.errors import SetupError, Unavailable
from core.ids import new_id
from core.truth import schema
from core.truth.clock import from_now, now
from core.truth.database import Database
from tests.fixtures.truth import add_tenant, admit

REVISIONS = [
    revision.revision
    for revision in ScriptDirectory(str(Path(core.truth.__file__).parent / "migrations")).walk_revisions()
][::-1]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'truth.db'}")
    else:
        database = request.getfixturevalue("empty_postgres")
    yield database
    database.dispose()


@pytest.fixture
def empty_postgres(postgres_url: str) -> Iterator[Database]:
    name, server = f"migrations_{secrets.token_hex(4)}", Database(postgres_url)
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    database = Database(server.url.set(database=name).render_as_string(hide_password=False))
    yield database
    database.dispose()
    server.dispose()


def test_every_migration_only_adds(empty: Database) -> None:
    """What an older process reads and writes must stay: columns, their types, and that it may leave out the others."""
    before: dict[str, dict[str, Any]] = {}
    unique: dict[str, set[str]] = {}
    for revision in REVISIONS:
        schema.upgrade(empty, revision)
        with empty.read() as connection:
            after, unique_after = _columns(connection), _unique(connection)
        for table, columns in before.items():
            assert table in after, f"{revision} drops {table}"
            for name, column in columns.items():
                assert name in after[table], f"{revision} drops {table}.{name}"
                assert after[table][name] == column, f"{revision} changes {table}.{name}"
            for name in after[table].keys() - columns.keys():
                _, nullable, default = after[table][name]
                assert nullable or default is not None, f"{revision} demands {table}.{name} of those that don't know it"
            assert unique_after[table] <= unique[table], f"{revision} forbids rows of {table} that were allowed"
        before, unique = after, unique_after
    assert len(before) >= 10


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_what_an_older_process_writes_goes_on_while_the_newest_tables_come(
    empty_postgres: Database, revision: str
) -> None:
    """Statements that know only the tables of `revision`: admission, dispatch, claim, heartbeat, publication."""
    database = empty_postgres
    schema.upgrade(database, revision)
    old = MetaData()
    with database.read() as connection:
        old.reflect(connection)
    with database.begin() as connection:
        connection.execute(
            insert(old.tables["tenants"]).values(
                id="tenant", name="t", weight=1.0, settings={}, bank_revision=0, created_at=now()
            )
        )
    ended = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(_work, database, old, ended) for _ in range(3)]
        try:
            schema.upgrade(database)
        finally:
            ended.set()
        acknowledged = [job_id for thread in working for job_id in thread.result()]
    assert schema.schema_of(database).pending == ()
    more = _work(database, old, ended)  # and the old statements fit the newest tables
    jobs = old.tables["jobs"]
    with database.read() as connection:
        kept = set(connection.execute(select(jobs.c.id).where(jobs.c.state == "succeeded")).scalars())
    assert kept == {*acknowledged, *more}
    assert len(kept) == len(acknowledged) + 1 > 3
    tenant = add_tenant(database)
    assert admit(database, tenant)[1].state == "queued"


def test_a_migration_that_has_to_wait_holds_up_nobody(
    empty_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = empty_postgres
    schema.upgrade(database, "0002")
    gave_way = threading.Event()
    monkeypatch.setattr(schema.time, "sleep", lambda _: gave_way.set())
    with ThreadPoolExecutor(1) as pool:
        with database.connect() as reader:
            # A transaction that goes on and on: a column of a table that it has read can't be added.
            reader.execute(text("SELECT count(*) FROM jobs"))
            migrating = pool.submit(schema.upgrade, database, "0003", lock_seconds=0.2)
            with database.begin() as connection:
                # It would wait for the whole transaction if the migration kept its place in the queue.
                connection.execute(text("SET LOCAL statement_timeout = '20s'"))
                for _ in range(20):
                    connection.execute(text("SELECT count(*) FROM jobs"))
            assert gave_way.wait(60)
            assert not migrating.done()
        migrating.result(60)
    assert schema.schema_of(database).current == "0003"


def test_a_migration_gives_up_after_its_patience(empty_postgres: Database) -> None:
    schema.upgrade(empty_postgres, "0002")
    with empty_postgres.connect() as reader:
        reader.execute(text("SELECT count(*) FROM jobs"))
        with pytest.raises(Unavailable, match="in use"):
            schema.upgrade(empty_postgres, "0003", lock_seconds=0.05, patience_seconds=0)
    assert schema.schema_of(empty_postgres).current == "0002"


def test_an_index_that_broke_off_half_built_is_built_anew(empty_postgres: Database) -> None:
    database = empty_postgres
    schema.upgrade(database, "0003")
    with database.begin() as connection:
        connection.execute(text("CREATE INDEX ix_memories_adapter_digest ON memories (adapter_digest)"))
        connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_memories_adapter_digest'::regclass")
        )
    schema.upgrade(database)
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_memories_adapter_digest'::regclass"
    with database.read() as connection:
        assert connection.execute(text(valid)).scalar_one() is True


def test_an_older_process_works_on_with_the_tables_of_a_newer_one(empty: Database) -> None:
    empty.migrate()
    with empty.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert schema.schema_of(empty).newer
    schema.ready_for_work(empty, migrate=True)
    schema.ready_for_work(empty, migrate=False)
    assert admit(empty, add_tenant(empty))[1].state == "queued"
    assert schema.schema_of(empty).current == "9999"


def test_tables_of_another_application_are_refused(empty: Database) -> None:
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('a1b2c3d4e5f6')"))
    with pytest.raises(SetupError, match="another application"):
        schema.ready_for_work(empty, migrate=True)


def test_where_start_ups_do_not_migrate_old_tables_are_refused_with_the_command_that_does(empty: Database) -> None:
    schema.upgrade(empty, REVISIONS[-2])
    with pytest.raises(SetupError, match="latentbank migrate upgrade"):
        schema.ready_for_work(empty, migrate=False)
    schema.ready_for_work(empty, migrate=True)
    schema.ready_for_work(empty, migrate=False)
    assert schema.schema_of(empty).current == REVISIONS[-1]


def _columns(connection: Connection) -> dict[str, dict[str, Any]]:
    found = inspect(connection)
    return {
        table: {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in found.get_columns(table)}
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def _unique(connection: Connection) -> dict[str, set[str]]:
    found = inspect(connection)
    return {
        table: {
            *(str(sorted(c["column_names"])) for c in found.get_unique_constraints(table)),
            *(str(i["column_names"]) for i in found.get_indexes(table) if i["unique"]),
        }
        for table in found.get_table_names()
    }


def _work(database: Database, old: MetaData, ended: threading.Event) -> list[str]:
    """Jobs from admission to end, until `ended`, at least one; ids of those whose every statement was acknowledged."""
    done = []
    while True:
        done.append(_one_job(database, old.tables))
        if ended.is_set():
            return done


def _one_job(database: Database, tables: Any) -> str:
    memories, jobs, events, workers = (tables[name] for name in ("memories", "jobs", "job_events", "workers"))
    memory_id, job_id = new_id("mem"), new_id("job")

    def run(step: Callable[[Connection], Any]) -> None:
        with database.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '20s'"))
            step(connection)

    def admission(connection: Connection) -> None:
        connection.execute(insert(memories).values(_least(memories, id=memory_id, tenant_id="tenant", metadata={})))
        row = _least(jobs, id=job_id, tenant_id="tenant", memory_id=memory_id, state="queued", cancel_requested=False)
        connection.execute(insert(jobs).values(row))
        connection.execute(insert(events).values(_least(events, job_id=job_id, data={})))

    mine = jobs.c.id == job_id
    run(admission)
    run(lambda c: c.execute(select(jobs.c.id).where(mine).with_for_update(skip_locked=True)).one())
    run(lambda c: c.execute(update(jobs).where(mine).values(dispatched_at=now(), rung_at=now())))
    run(lambda c: c.execute(update(jobs).where(mine).values(state="running", epoch=1, lease_until=from_now(30))))
    run(lambda c: c.execute(insert(workers).values(_least(workers, id=new_id("worker"), info={}))))
    run(lambda c: c.execute(update(jobs).where(mine).values(lease_until=from_now(30)).returning(jobs.c.lease_until)))
    run(lambda c: c.execute(select(func.count()).select_from(jobs.join(memories)).where(memories.c.status == "ready")))
    run(lambda c: c.execute(update(memories).where(memories.c.id == memory_id).values(status="ready", version=1)))
    run(lambda c: c.execute(update(jobs).where(mine).values(state="succeeded", finished_at=now())))
    return job_id


def _least(table: Table, **given: Any) -> dict[str, Any]:
    """A row of what has to be there."""
    row = dict(given)
    for column in table.columns:
        if column.nullable or column.name in row or column.server_default is not None:
            continue
        if column.name.endswith(("_at", "_until")) or column.name == "at":
            row[column.name] = now()
        else:
            row[column.name] = "x" if column.type.python_type is str else 0
    return row
