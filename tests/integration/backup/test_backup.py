"""Backups that are taken while others write, restored into fresh servers: SQLite and PostgreSQL, directory and S3."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import text

from core.backup.archive import Checked, check_all, make_backup, read_backup, restore_backup
from core.backup.truth_copy import copied
from core.base_model.description import BaseDescription
from core.encryption.data_keys import DataKeys
from core.encryption.master_keys import MasterKeys
from core.encryption.sealed_store import SealedStore
from core.errors import Conflict, InvalidRequest, StorageError
from core.storage.local import LocalStore
from core.storage.object_store import ObjectStore
from core.storage.s3 import S3Store
from core.truth import jobs, memories
from core.truth.database import Database
from core.truth.records import BankEntry
from tests.fixtures.published import Publisher, WordEncoder
from tests.fixtures.s3 import S3Server

MASTER = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Place:
    """A truth and a store, sealed with the same master key wherever they are."""

    database: Database
    store: ObjectStore
    base: BaseDescription

    def reading(self, store: ObjectStore) -> ObjectStore:
        return SealedStore(store, DataKeys(self.database, MasterKeys([MASTER])))

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.database, self.reading(self.store), self.base, WordEncoder())

    def backup(self, directory: Path) -> object:
        return make_backup(self.database, self.store, self.reading, directory)

    def restore(self, directory: Path, deleted: list[str] | None = None) -> object:
        return restore_backup(directory, self.database, self.store, self.reading, deleted or [])

    def check(self) -> list[Checked]:
        return list(check_all(self.database, self.reading(self.store)))

    def status(self, tenant: str, memory_id: str) -> str:
        with self.database.read() as connection:
            return memories.get_memory(connection, tenant, memory_id).status


Make = Callable[[], Place]


@pytest.fixture(params=["embedded", "cluster"])
def make(request: pytest.FixtureRequest, tmp_path: Path, tiny_base: BaseDescription) -> Iterator[Make]:
    """Makes empty places of one kind, as many as are asked for."""
    opened: list[Database] = []

    def embedded() -> Place:
        directory = tmp_path / f"place-{len(opened)}"
        return Place(Database(f"sqlite:///{directory / 'truth.db'}"), LocalStore(directory / "objects"), tiny_base)

    def cluster() -> Place:
        server = Database(request.getfixturevalue("postgres_url"))
        name = f"backup_{secrets.token_hex(4)}"
        with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        server.dispose()
        s3: S3Server = request.getfixturevalue("s3_server")
        bucket = request.getfixturevalue("s3_bucket")
        store = S3Store(bucket, name, s3.settings(bucket, name))
        return Place(Database(server.url.set(database=name).render_as_string(hide_password=False)), store, tiny_base)

    def make() -> Place:
        place = embedded() if request.param == "embedded" else cluster()
        opened.append(place.database)
        return place

    yield make
    for database in opened:
        database.dispose()


def test_all_that_was_acknowledged_before_a_backup_under_load_is_there_after_a_restore(
    make: Make, tmp_path: Path
) -> None:
    place = make()
    place.database.migrate()
    publisher = place.publisher
    tenant = publisher.tenant()
    before = [publisher.publish(tenant, f"Before {i}", "The heron eats fish.", seed=i) for i in range(4)]
    before[0] = publisher.revise(tenant, before[0], "The heron eats frogs.", seed=9)
    waiting = publisher.admit(tenant, "Waits", "The fox eats mice.")
    running = publisher.admit(tenant, "Is distilled", "The owl eats moths.")
    with place.database.begin() as connection:
        assert jobs.claim(connection, running[1], "worker_of_then", 600) is not None
    ended, after = threading.Event(), []

    def load() -> None:
        while not ended.is_set():
            after.append(publisher.publish(tenant, "Meanwhile", "The seal eats squid.", seed=len(after)))

    writing = threading.Thread(target=load)
    writing.start()
    try:
        place.backup(tmp_path / "backup")
    finally:
        ended.set()
        writing.join()
    assert after

    fresh = make()
    fresh.restore(tmp_path / "backup")
    assert [fault for checked in fresh.check() for fault in checked.faults] == []
    with fresh.database.read() as connection:
        kept = {entry.memory_id: entry for entry in memories.bank(connection, tenant)[1]}
        assert {entry.memory_id: entry for entry in before}.items() <= kept.items()
        for memory_id, job_id in (waiting, running):
            assert memories.get_memory(connection, tenant, memory_id).status == "pending"
            job = jobs.get_job(connection, tenant, job_id)
            assert (job.state, job.attempts) == ("queued", 0)
    made = replace(place, database=fresh.database, store=fresh.store).publisher
    entry = made.publish(tenant, "Is distilled", "The owl eats moths.", seed=5, admitted=running)
    assert entry.memory_id == running[0]


def test_a_memory_that_was_deleted_after_the_backup_is_back_unless_it_is_named(make: Make, tmp_path: Path) -> None:
    place = make()
    place.database.migrate()
    tenant = place.publisher.tenant()
    kept, named, forgotten = (place.publisher.publish(tenant, str(i), "Text.", seed=i) for i in range(3))
    place.backup(tmp_path / "backup")
    for entry in (named, forgotten):
        place.publisher.delete(entry, tenant)
    fresh = make()
    fresh.restore(tmp_path / "backup", [named.memory_id, "mem_of_another_time"])
    assert fresh.status(tenant, kept.memory_id) == "ready"
    assert fresh.status(tenant, named.memory_id) == "deleted"
    assert fresh.status(tenant, forgotten.memory_id) == "ready"


def test_what_is_deleted_while_its_objects_can_still_be_copied_is_deleted_in_the_restored(
    make: Make, tmp_path: Path
) -> None:
    place = make()
    place.database.migrate()
    tenant = place.publisher.tenant()
    gone = place.publisher.publish(tenant, "Velmora", "Text.", seed=1)

    class Deleting:
        """The deletion comes after the truth's copy; its purge has not come yet."""

        def __getattr__(self, name: str) -> object:
            place.publisher.delete(gone, tenant)
            return getattr(place.store, name)

    backup = make_backup(place.database, Deleting(), place.reading, tmp_path / "backup")  # type: ignore[arg-type]
    assert backup.deleted_meanwhile == (gone.memory_id,)
    fresh = make()
    fresh.restore(tmp_path / "backup")
    assert fresh.status(tenant, gone.memory_id) == "deleted"


def test_the_server_waits_for_a_backup_that_takes_long(make: Make, tmp_path: Path) -> None:
    place = make()
    place.database.migrate()
    if place.database.url.get_backend_name() == "sqlite":
        pytest.skip("SQLite has no server that would end a transaction.")
    shown = text("SHOW idle_in_transaction_session_timeout")
    with place.database.read() as connection:
        assert connection.execute(shown).scalar_one() != "0"
    with copied(place.database, tmp_path / "truth.dump") as connection:
        assert connection.execute(shown).scalar_one() == "0"
    with place.database.read() as connection:
        assert connection.execute(shown).scalar_one() != "0"


def test_what_is_deleted_and_purged_while_objects_are_copied_is_deleted_in_the_restored(
    make: Make, tmp_path: Path
) -> None:
    place = make()
    place.database.migrate()
    tenant = place.publisher.tenant()
    kept, gone = (place.publisher.publish(tenant, str(i), "Text.", seed=i) for i in range(2))

    class Purging:
        """The deletion and its purge come between the truth's copy and the first object."""

        def __init__(self) -> None:
            self.done = False

        def __getattr__(self, name: str) -> object:
            if not self.done:
                self.done = True
                place.publisher.delete(gone, tenant)
                for found in list(place.store.list(f"tenants/{tenant}/memories/{gone.memory_id}")):
                    place.store.delete(found.key)
            return getattr(place.store, name)

    backup = make_backup(place.database, Purging(), place.reading, tmp_path / "backup")  # type: ignore[arg-type]
    assert backup.deleted_meanwhile == (gone.memory_id,)
    fresh = make()
    fresh.restore(tmp_path / "backup")
    assert fresh.status(tenant, kept.memory_id) == "ready"
    assert fresh.status(tenant, gone.memory_id) == "deleted"


def test_a_second_backup_into_the_same_directory_copies_what_is_new_and_drops_what_is_gone(
    make: Make, tmp_path: Path
) -> None:
    place = make()
    place.database.migrate()
    tenant = place.publisher.tenant()
    stays, goes = (place.publisher.publish(tenant, str(i), "Text.", seed=i) for i in range(2))
    place.backup(tmp_path / "backup")
    kept = LocalStore(tmp_path / "backup" / "objects")
    before = {found.key: found.modified for found in kept.list("")}
    place.publisher.delete(goes, tenant)
    comes = place.publisher.publish(tenant, "2", "Text.", seed=2)
    place.backup(tmp_path / "backup")
    after = {found.key: found.modified for found in kept.list("")}
    assert {key for key in after if stays.memory_id in key} == {key for key in before if stays.memory_id in key}
    assert all(after[key] == before[key] for key in after if stays.memory_id in key)
    assert any(comes.memory_id in key for key in after)
    assert not any(goes.memory_id in key for key in after)
    assert not any(b"Text." in kept.get(key) for key in after), "objects are kept as they are stored: sealed"


def test_an_object_that_is_lost_or_spoilt_is_found(make: Make, tmp_path: Path) -> None:
    place = make()
    place.database.migrate()
    tenant = place.publisher.tenant()
    good, lost, spoilt = (place.publisher.publish(tenant, str(i), "Text.", seed=i) for i in range(3))
    place.store.delete(_key(place, lost, "adapter_model.safetensors"))
    place.store.put(_key(place, spoilt, "context.json"), b"{}")
    faults = [fault for checked in place.check() for fault in checked.faults]
    assert {(fault.memory_id, fault.key.rsplit("/", 1)[1]) for fault in faults} == {
        (lost.memory_id, "adapter_model.safetensors"),
        (spoilt.memory_id, "context.json"),
    }
    assert good.memory_id in {checked.memory.memory_id for checked in place.check() if not checked.faults}
    with pytest.raises(StorageError, match="2 objects are missing or wrong"):
        place.backup(tmp_path / "backup")
    with pytest.raises(InvalidRequest, match="no whole backup"):
        read_backup(tmp_path / "backup")


def test_nothing_is_restored_over_what_is_there_or_from_what_is_not_whole(make: Make, tmp_path: Path) -> None:
    place = make()
    place.database.migrate()
    tenant = place.publisher.tenant()
    place.publisher.publish(tenant, "0", "Text.", seed=0)
    place.backup(tmp_path / "backup")
    with pytest.raises(Conflict, match="not empty"):
        place.restore(tmp_path / "backup")
    truth = tmp_path / "backup" / json.loads((tmp_path / "backup" / "backup.json").read_text())["truth"]
    truth.write_bytes(truth.read_bytes() + b"x")
    with pytest.raises(InvalidRequest, match="not the file that was written"):
        make().restore(tmp_path / "backup")


def _key(place: Place, entry: BankEntry, name: str) -> str:
    return next(
        found.key for found in place.store.list("tenants") if entry.memory_id in found.key and name in found.key
    )
