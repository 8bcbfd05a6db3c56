"""Storing and admitting, without HTTP: what is left behind where the database or the store fail midway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from core.errors import StorageError
from core.settings import LimitSettings, RecipeSettings
from core.storage.memory import MemoryStore
from core.truth.audit import UNNAMED
from core.truth.database import Database
from core.truth.memories import list_memories
from core.truth.tenants import create_tenant
from gateway.intake import Admission, Context, take_in

CONTEXT = Context("T", "default", {}, "text", b'{"kind": "text"}', 5, "sha256:0")
AWAY = OperationalError("commit", {}, Exception("server closed the connection"))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'truth.db'}")
    database.migrate()
    yield database
    database.dispose()


@pytest.fixture
def tenant_id(database: Database) -> str:
    with database.begin() as connection:
        return create_tenant(connection, "harbour").id


def test_a_failed_commit_leaves_no_object(database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    monkeypatch.setattr(database, "begin", _fails_before_commit(database))
    with pytest.raises(OperationalError):
        _take_in(database, store, tenant_id)
    assert list(store.list("")) == []


def test_a_commit_whose_reply_is_lost_is_an_admission_and_keeps_its_object(
    database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    monkeypatch.setattr(database, "begin", _fails_after_commit(database))

    admission = _take_in(database, store, tenant_id)

    with database.read() as connection:
        (memory,) = list_memories(connection, tenant_id)
    assert admission.memory == memory
    assert store.get(memory.context_key) == CONTEXT.payload


def test_where_the_database_cannot_say_whether_it_committed_the_object_stays(
    database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    monkeypatch.setattr(database, "begin", _fails_after_commit(database))
    with monkeypatch.context() as away:
        away.setattr(database, "read", _fails_before_commit(database))
        with pytest.raises(OperationalError):
            _take_in(database, store, tenant_id)

    with database.read() as connection:
        (memory,) = list_memories(connection, tenant_id)
    assert store.get(memory.context_key) == CONTEXT.payload


def test_an_object_that_cannot_be_removed_is_left_to_the_garbage_collector(
    database: Database, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    first = _take_in(database, store, tenant_id, "k")

    def refuse(key: str) -> None:
        raise StorageError

    monkeypatch.setattr(store, "delete", refuse)
    monkeypatch.setattr("gateway.intake.find_idempotent", lambda *_: None)
    again = _take_in(database, store, tenant_id, "k")

    assert (again.memory, again.created) == (first.memory, False)
    assert len(list(store.list(""))) == 2


def _take_in(database: Database, store: MemoryStore, tenant_id: str, key: str | None = None) -> Admission:
    return take_in(
        tenant_id,
        CONTEXT,
        key,
        database=database,
        store=store,
        limits=LimitSettings(),
        recipe=RecipeSettings(),
        by=UNNAMED,
    )


def _fails_before_commit(database: Database):  # noqa: ANN202
    begin = database.begin

    @contextmanager
    def failing() -> Iterator[Connection]:
        with begin() as connection:
            yield connection
            raise AWAY

    return failing


def _fails_after_commit(database: Database):  # noqa: ANN202
    begin = database.begin

    @contextmanager
    def failing() -> Iterator[Connection]:
        with begin() as connection:
            yield connection
        raise AWAY

    return failing
