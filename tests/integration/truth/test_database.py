from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from core.truth import tenants, workers
from core.truth.clock import from_now, now
from core.truth.database import Database
from core.truth.tables import api_keys, metadata
from tests.fixtures.truth import add_tenant


def test_the_migrations_make_exactly_the_tables_of_the_code(truth: Database) -> None:
    with truth.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_many_processes_may_open_a_new_database_at_once(tmp_path: Path) -> None:
    for turn in range(10):
        databases = [Database(f"sqlite:///{tmp_path / f'new-{turn}.db'}") for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(_ask_the_clock, databases))


def test_many_processes_may_migrate_a_new_database_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    databases = [Database(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Database.migrate, databases))
    add_tenant(databases[0])
    for database in databases:
        database.dispose()


def test_many_processes_may_migrate_a_new_postgresql_at_once(postgres_url: str) -> None:
    admin = Database(postgres_url)
    with admin._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE IF EXISTS fresh"))
        connection.execute(text("CREATE DATABASE fresh"))
    databases = [Database(postgres_url.rsplit("/", 1)[0] + "/fresh") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Database.migrate, databases))
    add_tenant(databases[0])
    for database in (*databases, admin):
        database.dispose()


def test_the_clock_is_aware_and_of_today(truth: Database) -> None:
    with truth.read() as connection:
        told = truth.now(connection)
        later = connection.execute(select(from_now(90.5))).scalar_one()
        earlier = connection.execute(select(from_now(-90.5))).scalar_one()
        again = connection.execute(select(now())).scalar_one()
    assert told.tzinfo is UTC
    assert abs(datetime.now(UTC) - told) < timedelta(seconds=30)
    assert timedelta(seconds=90) < later - told < timedelta(seconds=100)
    assert timedelta(seconds=80) < told - earlier < timedelta(seconds=91)
    assert again >= told


def test_an_exception_rolls_the_transaction_back(truth: Database) -> None:
    def fail_half_way() -> None:
        with truth.begin() as connection:
            tenants.create_tenant(connection, "never")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail_half_way()
    with truth.read() as connection:
        assert tenants.list_tenants(connection) == []


def test_an_error_names_no_value_that_was_written(truth: Database) -> None:
    """Errors are logged, and a value may be a tenant's text."""
    row = {"key_sha256": "1", "tenant_id": "what a tenant wrote", "created_at": datetime.now(UTC)}
    with pytest.raises(IntegrityError) as problem, truth.begin() as connection:
        connection.execute(insert(api_keys).values(row))
    assert "INSERT INTO api_keys" in str(problem.value)
    if truth.url.get_backend_name() == "sqlite":  # PostgreSQL's own message repeats the key that it misses
        assert "what a tenant wrote" not in str(problem.value)
    assert "parameters hidden" in str(problem.value)


def test_a_reader_does_not_wait_for_a_writer(truth: Database) -> None:
    with truth.begin() as writer:
        tenants.create_tenant(writer, "unseen")
        with truth.read() as reader:
            assert tenants.list_tenants(reader) == []


def test_sqlite_has_to_be_a_file() -> None:
    with pytest.raises(ValueError, match="file"):
        Database("sqlite://")


def test_a_worker_is_alive_until_its_announcement_runs_out(truth: Database) -> None:
    with truth.begin() as connection:
        workers.announce(connection, "one", "distillation", "", {"capacity": 2}, 60)
        workers.announce(connection, "gone", "distillation", "", {}, -1)
        workers.announce(connection, "other", "inference", "http://127.0.0.1:1", {"name": "m"}, 60)
    with truth.begin() as connection:
        assert [w.id for w in workers.alive(connection, "distillation")] == ["one"]
        workers.announce(connection, "gone", "distillation", "", {}, 60)
        assert [w.id for w in workers.alive(connection, "distillation")] == ["gone", "one"]
        workers.withdraw(connection, "one")
        workers.withdraw(connection, "one")
        assert [w.id for w in workers.alive(connection, "distillation")] == ["gone"]
        assert workers.alive(connection, "inference")[0].info == {"name": "m"}
        assert workers.forget_expired(connection, -120) == 2


def _ask_the_clock(database: Database) -> None:
    with database.read() as connection:
        database.now(connection)
    database.dispose()
