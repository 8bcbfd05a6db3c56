from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import update

from core.encryption.data_keys import DataKeys
from core.encryption.master_keys import MasterKeys
from core.encryption.sealed_store import SealedStore
from core.errors import KeyMissing, StorageError
from core.ids import new_id
from core.metrics import OrchestratorMetrics
from core.settings import JobSettings
from core.storage.keys import context_key
from core.storage.local import LocalStore
from core.storage.memory import MemoryStore
from core.storage.object_store import ObjectInfo, ObjectStore
from core.truth import deletions, forgetting, jobs, memories, workers
from core.truth.audit import ADMIN, ORCHESTRATOR, Actor, list_records
from core.truth.clock import from_now
from core.truth.database import Database
from core.truth.records import Deletion, Memory, Tenant
from core.truth.tables import deletions as table
from orchestrator.forgetting import Forgetting
from orchestrator.garbage import GarbageCollector
from orchestrator.telemetry import Telemetry
from tests.fixtures.truth import add_tenant, admit

BY = Actor(ADMIN)
TEXT = b'{"kind": "text", "text": "The mayor of Saltmere is Tobias Finch."}'


@pytest.fixture(params=["local", "s3"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return LocalStore(tmp_path / "objects") if request.param == "local" else request.getfixturevalue("s3_store")


def orchestrator(truth: Database, store: ObjectStore) -> Forgetting:
    garbage = GarbageCollector(truth, store, JobSettings(), OrchestratorMetrics(CollectorRegistry()))
    return Forgetting(truth, store, garbage, lambda: False)


def sealed(truth: Database, plain: ObjectStore) -> SealedStore:
    return SealedStore(plain, DataKeys(truth, MasterKeys([os.urandom(32)])))


def remembered(truth: Database, store: ObjectStore, tenant: Tenant, **fields: object) -> Memory:
    """A memory whose job has ended, with its context."""
    memory, job = admit(truth, tenant, **fields)
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, job.id)
    store.put(memory.context_key, TEXT)
    return memory


def delete(truth: Database, memory: Memory) -> Deletion:
    with truth.begin() as connection:
        gone = memories.delete_memory(connection, memory.tenant_id, memory.id)
        assert gone.deletion_id is not None
        return deletions.get_deletion(connection, memory.tenant_id, gone.deletion_id)


def read(truth: Database, deletion: Deletion) -> Deletion:
    with truth.read() as connection:
        return deletions.get_deletion(connection, deletion.tenant_id, deletion.id)


def announce(truth: Database, worker_id: str, *, has_followed: bool) -> None:
    with truth.begin() as connection:
        instant = truth.now(connection).isoformat() if has_followed else "2026-01-01T00:00:00+00:00"
        workers.announce(connection, worker_id, "inference", "", {"followed": instant}, 60)


def test_a_memory_is_attested_when_it_is_purged_and_every_worker_has_followed(
    truth: Database, plain: ObjectStore
) -> None:
    store, tenant = sealed(truth, plain), add_tenant(truth)
    memory, kept = remembered(truth, store, tenant), remembered(truth, store, tenant)
    announce(truth, "late", has_followed=False)
    deletion = delete(truth, memory)
    assert deletion.state == "tombstoned"
    orchestrator(truth, plain).run_once()
    purged = read(truth, deletion)
    assert (purged.state, purged.drained_at) == ("purged", None)
    assert [found.key for found in plain.list("")] == [kept.context_key]
    announce(truth, "late", has_followed=True)
    orchestrator(truth, plain).run_once()
    attested = read(truth, deletion)
    assert attested.state == "attested"
    times = (attested.deleted_at, attested.tombstoned_at, attested.draining_at, attested.drained_at)
    assert all(times)
    assert list(times) == sorted(time for time in times if time is not None)
    assert attested.purged_at is not None
    assert attested.attested_at is not None
    assert attested.attested_at >= max(attested.purged_at, attested.drained_at or attested.purged_at)
    orchestrator(truth, plain).run_once()
    assert read(truth, deletion) == attested
    with truth.read() as connection:
        (told,) = list_records(connection, tenant.id, action="memory.purged")
    assert (told.actor, told.subject_id, told.data["deletion_id"]) == (ORCHESTRATOR.name, memory.id, deletion.id)


def test_a_worker_that_followed_before_the_deletion_attests_nothing(truth: Database, tmp_path: Path) -> None:
    plain = LocalStore(tmp_path / "objects")
    memory = remembered(truth, plain, add_tenant(truth))
    announce(truth, "worker", has_followed=True)
    deletion = delete(truth, memory)
    for _ in range(3):
        orchestrator(truth, plain).run_once()
    assert read(truth, deletion).state == "purged"


def test_a_collection_that_its_caller_left_in_the_middle_is_gone_after_a_pass(
    truth: Database, plain: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "BATCH", 2)
    store, tenant = sealed(truth, plain), add_tenant(truth)
    gone = [remembered(truth, store, tenant, collection="a") for _ in range(5)]
    kept = remembered(truth, store, tenant, collection="b")
    with truth.begin() as connection:
        deletion = forgetting.delete_collection(connection, tenant.id, "a", BY)
    turns = iter([True])
    assert not forgetting.tombstone_all(truth, deletion, lambda: next(turns, False))
    orchestrator(truth, plain).run_once()
    assert read(truth, deletion).state == "attested", "no worker holds anything"
    assert read(truth, deletion).memories == len(gone)
    assert [found.key for found in plain.list("")] == [kept.context_key]
    assert store.get(kept.context_key) == TEXT


def test_a_deleted_tenant_leaves_no_object_and_what_was_copied_before_can_not_be_read(
    truth: Database, plain: ObjectStore
) -> None:
    store, tenant, other = sealed(truth, plain), add_tenant(truth), add_tenant(truth, "other")
    for _ in range(3):
        remembered(truth, store, tenant)
    theirs = remembered(truth, store, other)
    stray = context_key(tenant.id, new_id("mem"))
    store.put(stray, TEXT)
    backup = {found.key: plain.get(found.key) for found in plain.list("")}
    with truth.begin() as connection:
        deletion = forgetting.delete_tenant(connection, tenant.id, BY)
    orchestrator(truth, plain).run_once()
    assert read(truth, deletion).state == "attested"
    assert [found.key for found in plain.list("")] == [theirs.context_key]
    for key, data in backup.items():
        plain.put(key, data)
    again = SealedStore(plain, DataKeys(truth, store.keys._masters))
    with pytest.raises(KeyMissing):
        again.get(stray)
    assert again.get(theirs.context_key) == TEXT


class Stuck(MemoryStore):
    """Does not let go of some objects."""

    stuck: frozenset[str] = frozenset()

    def delete(self, key: str) -> None:
        if key in self.stuck:
            raise StorageError("503 SlowDown")
        super().delete(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from list(super().list(prefix))


def test_what_the_store_does_not_let_go_is_not_called_purged_and_holds_up_nothing_else(truth: Database) -> None:
    store, tenant = Stuck(), add_tenant(truth)
    stuck, free = remembered(truth, store, tenant), remembered(truth, store, tenant)
    store.stuck = frozenset({stuck.context_key})
    first, second = delete(truth, stuck), delete(truth, free)
    orchestrator(truth, store).run_once()
    assert (read(truth, first).state, read(truth, second).state) == ("draining", "attested")
    with truth.begin() as connection:
        whole = forgetting.delete_tenant(connection, tenant.id, BY)
    orchestrator(truth, store).run_once()
    assert read(truth, whole).purged_at is None
    store.stuck = frozenset()
    orchestrator(truth, store).run_once()
    assert [read(truth, one).state for one in (first, second, whole)] == ["attested"] * 3


def test_a_memory_in_work_is_neither_purged_nor_drained_until_its_worker_has_stopped(truth: Database) -> None:
    store, tenant = MemoryStore(), add_tenant(truth)
    memory, job = admit(truth, tenant)
    store.put(memory.context_key, TEXT)
    with truth.begin() as connection:
        claimed = jobs.claim(connection, job.id, "worker", 60)
    assert claimed is not None
    deletion = delete(truth, memory)
    orchestrator(truth, store).run_once()
    assert (read(truth, deletion).state, read(truth, deletion).drained_at) == ("draining", None)
    with truth.begin() as connection:
        jobs.finish(connection, claimed, "cancelled", "memory_deleted")
    orchestrator(truth, store).run_once()
    assert read(truth, deletion).state == "attested"
    assert not list(store.list(""))


def test_the_age_of_the_oldest_deletion_on_its_way_can_be_watched(truth: Database) -> None:
    store, metrics = MemoryStore(), OrchestratorMetrics(CollectorRegistry())
    telemetry = Telemetry(truth, metrics)

    def shown() -> float:
        telemetry.run_once()
        return float(metrics.deletion_oldest_seconds._value.get())

    memory = remembered(truth, store, add_tenant(truth))
    assert shown() == 0
    deletion = delete(truth, memory)
    with truth.begin() as connection:
        hour_ago = update(table).where(table.c.id == deletion.id).values(deleted_at=from_now(-3600))
        connection.execute(hour_ago)
    assert 3600 <= shown() < 4000
    orchestrator(truth, store).run_once()
    assert shown() == 0
