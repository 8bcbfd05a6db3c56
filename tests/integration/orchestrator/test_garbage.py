from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from core.errors import StorageError
from core.ids import new_id
from core.metrics import OrchestratorMetrics
from core.settings import JobSettings
from core.storage.keys import adapter_prefix, context_key, manifest_key, revised_context_key
from core.storage.memory import MemoryStore
from core.storage.object_store import ObjectInfo
from core.truth import jobs, memories, revisions
from core.truth.database import Database
from core.truth.records import Memory, NewRevision
from orchestrator.garbage import GarbageCollector
from tests.fixtures.truth import add_tenant, admit, claim, publication


class Clock:
    """The store's clock: an hour and more back, until told otherwise."""

    def __init__(self) -> None:
        self.back = timedelta(hours=2)

    def __call__(self) -> datetime:
        return datetime.now(UTC) - self.back


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
def collector(truth: Database, store: MemoryStore) -> GarbageCollector:
    return GarbageCollector(
        truth, store, JobSettings(garbage_margin_seconds=3600), OrchestratorMetrics(CollectorRegistry())
    )


def keys(store: MemoryStore) -> set[str]:
    return {found.key for found in store.list("")}


def attempt(store: MemoryStore, memory: Memory, epoch: int, version: int = 1) -> tuple[str, str]:
    """The two objects of one upload: weights and manifest."""
    prefix = adapter_prefix(memory.tenant_id, memory.id, version, epoch, "a1b2")
    uploaded = (f"{prefix}/adapter_model.safetensors", manifest_key(prefix))
    for key in uploaded:
        store.put(key, b"x")
    return uploaded


def published(truth: Database, store: MemoryStore) -> tuple[Memory, set[str]]:
    """A ready memory, with the objects that its row names."""
    memory, job = admit(truth, add_tenant(truth))
    store.put(memory.context_key, b"{}")
    uploaded = attempt(store, memory, 1)
    claimed = claim(truth, job)
    with truth.begin() as connection:
        assert jobs.publish(connection, claimed, publication(key=uploaded[1]))
    return memory, {memory.context_key, *uploaded}


def test_what_a_row_names_stays_and_a_losers_upload_goes(
    truth: Database, store: MemoryStore, collector: GarbageCollector
) -> None:
    memory, named = published(truth, store)
    attempt(store, memory, 2)
    assert collector.collect() == 2
    assert keys(store) == named
    assert collector.collect() == 0


def test_what_is_younger_than_the_margin_stays(
    truth: Database, store: MemoryStore, collector: GarbageCollector, clock: Clock
) -> None:
    memory, named = published(truth, store)
    clock.back = timedelta(minutes=59)
    young = attempt(store, memory, 2)
    assert collector.collect() == 0
    assert keys(store) == named | set(young)


def test_while_a_job_is_open_everything_of_its_memory_stays(
    truth: Database, store: MemoryStore, collector: GarbageCollector
) -> None:
    memory, job = admit(truth, add_tenant(truth))
    uploaded = attempt(store, memory, 1)
    assert collector.collect() == 0
    with truth.begin() as connection:
        jobs.request_cancel(connection, memory.tenant_id, job.id)
    assert collector.collect() == len(uploaded)


def test_a_new_version_makes_the_old_versions_objects_garbage_and_not_before(
    truth: Database, store: MemoryStore, collector: GarbageCollector
) -> None:
    memory, old = published(truth, store)
    job_id = new_id("job")
    key = revised_context_key(memory.tenant_id, memory.id, job_id)
    fields = {name: getattr(memory, name) for name in revisions.FIELDS} | {"context_key": key}
    new = NewRevision(job_id, memory.id, memory.tenant_id, cost_estimate_seconds=1.0, replaces=1, **fields)
    store.put(key, b"{}")
    with truth.begin() as connection:
        _, job, _ = revisions.revise(connection, new, backlog_limit=9)
    uploaded = attempt(store, memory, 1, version=2)
    assert collector.collect() == 0, "the job is open"
    claimed = claim(truth, job)
    with truth.begin() as connection:
        assert jobs.publish(connection, claimed, publication(version=2, key=uploaded[1]))
    assert collector.collect() == len(old)
    assert keys(store) == {key, *uploaded}


def test_a_context_whose_admission_never_happened_goes(
    truth: Database, store: MemoryStore, collector: GarbageCollector
) -> None:
    tenant = add_tenant(truth)
    store.put(context_key(tenant.id, "mem_" + "a" * 26), b"{}")
    assert collector.collect() == 1


def test_keys_that_latentbank_did_not_make_are_left_alone(
    truth: Database, store: MemoryStore, collector: GarbageCollector
) -> None:
    foreign = {"readme.txt", "tenants/someone/notes.txt", "backups/2020/dump.sql"}
    for key in foreign:
        store.put(key, b"x")
    assert collector.collect() == 0
    assert keys(store) == foreign


def test_rows_are_asked_again_right_before_the_deletion(truth: Database, clock: Clock) -> None:
    """A publisher that commits between the first look and the deletion keeps its objects."""
    memory, job = admit(truth, add_tenant(truth))
    claimed = claim(truth, job)

    class Racing(GarbageCollector):
        looks = 0

        def _unnamed(self, found: list[ObjectInfo]) -> list[ObjectInfo]:  # type: ignore[override]
            self.looks += 1
            if self.looks == 1:
                return list(found)  # as if no row had named them yet
            return super()._unnamed(found)

    store = MemoryStore(clock)
    uploaded = attempt(store, memory, 1)
    with truth.begin() as connection:
        assert jobs.publish(connection, claimed, publication(key=uploaded[1]))
    collector = Racing(truth, store, JobSettings(garbage_margin_seconds=3600), OrchestratorMetrics(CollectorRegistry()))
    assert collector.collect() == 0
    assert keys(store) == set(uploaded)


def test_a_deleted_memory_is_purged_and_the_row_says_when(
    truth: Database, store: MemoryStore, collector: GarbageCollector, clock: Clock
) -> None:
    clock.back = timedelta(0)
    kept, named = published(truth, store)
    gone, _ = published(truth, store)
    with truth.begin() as connection:
        memories.delete_memory(connection, gone.tenant_id, gone.id)
    assert collector.purge_deleted() == [gone.id]
    assert collector.purge_deleted() == []
    assert keys(store) == named
    with truth.read() as connection:
        assert memories.get_memory(connection, gone.tenant_id, gone.id).purged_at is not None
        assert memories.get_memory(connection, kept.tenant_id, kept.id).purged_at is None


def test_a_store_that_fails_leaves_the_memory_unpurged(truth: Database, clock: Clock) -> None:
    class Failing(MemoryStore):
        broken = True

        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            if self.broken:
                raise OSError("away")
            return super().list(prefix)

    store = Failing(clock)
    memory, _ = published(truth, store)
    with truth.begin() as connection:
        memories.delete_memory(connection, memory.tenant_id, memory.id)
    collector = GarbageCollector(truth, store, JobSettings(), OrchestratorMetrics(CollectorRegistry()))
    with pytest.raises(OSError, match="away"):
        collector.purge_deleted()
    store.broken = False
    assert collector.purge_deleted() == [memory.id]
    assert keys(store) == set()


def test_an_object_that_can_not_be_removed_holds_up_no_other(truth: Database, clock: Clock) -> None:
    class Stubborn(MemoryStore):
        stuck: frozenset[str] = frozenset()

        def delete(self, key: str) -> None:
            if key in self.stuck:
                raise StorageError(f"{key} stays.")
            super().delete(key)

    store = Stubborn(clock)
    first, _ = published(truth, store)
    second, _ = published(truth, store)
    stray = [context_key(first.tenant_id, "mem_" + letter * 26) for letter in "ab"]
    for key in stray:
        store.put(key, b"{}")
    store.stuck = frozenset({first.context_key, stray[0]})
    for memory in (first, second):
        with truth.begin() as connection:
            memories.delete_memory(connection, memory.tenant_id, memory.id)
    collector = GarbageCollector(truth, store, JobSettings(), OrchestratorMetrics(CollectorRegistry()))
    assert collector.purge_deleted() == [second.id]
    assert collector.collect() == 1
    assert keys(store) == store.stuck
    store.stuck = frozenset()
    assert collector.purge_deleted() == [first.id]
    assert collector.collect() == 1
    assert keys(store) == set()
