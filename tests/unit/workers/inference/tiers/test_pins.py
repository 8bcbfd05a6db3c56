from __future__ import annotations

import pytest

from core.errors import Conflict, NotFound, ObjectMissing
from core.storage.publication import read_manifest
from core.truth.audit import list_records
from core.truth.database import Database
from tests.unit.workers.inference.conftest import Stand
from workers.inference.tiers.loaded import LoadedMemory, Wanted
from workers.inference.tiers.pins import Pins

TEXT = "Velmora is a town."


@pytest.fixture
def pins(stand: Stand, database: Database) -> Pins:
    return Pins(database, stand.banks, stand.residency, "worker_1")


def beat(stand: Stand, pins: Pins) -> None:
    """What the worker's life does again and again."""
    pins.follow()
    stand.banks.refresh_known()


def ask_others(stand: Stand, number: int) -> None:
    """Other tenants' memories take slots and RAM."""
    for seed in range(number):
        tenant = stand.publisher.tenant()
        entry = stand.publisher.publish(tenant, "Sark", "Sark has no cars.", seed=50 + seed)
        stand.ask(stand.question(tenant, "Cars?", model=entry.memory_id))


def test_a_pin_follows_its_memory_to_the_new_version(stand: Stand, pins: Pins) -> None:
    tenant = stand.publisher.tenant()
    old = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    pins.load(old.memory_id)
    new = stand.publisher.revise(tenant, old, TEXT, seed=2)
    assert new.adapter_digest != old.adapter_digest
    beat(stand, pins)
    stand.residency.prefetch(read_manifest(stand.publisher.store, new.manifest_key)).result(timeout=30)
    assert not stand.residency.holds(old.adapter_digest)
    ask_others(stand, 4)
    beat(stand, pins)
    assert stand.residency.holds(new.adapter_digest)
    assert pins.memory_ids == (old.memory_id,)
    pins.unload(old.memory_id)
    assert not stand.residency.holds(new.adapter_digest)


def test_a_deleted_memory_is_pinned_no_longer_and_gone_from_everywhere(stand: Stand, pins: Pins) -> None:
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    pins.load(entry.memory_id)
    stand.publisher.delete(entry, tenant)
    beat(stand, pins)
    assert pins.memory_ids == ()
    assert not stand.residency.holds(entry.adapter_digest)
    assert not stand.node_cache.contains(entry.adapter_digest)
    with pytest.raises(NotFound):
        pins.unload(entry.memory_id)


def test_a_pinned_memory_stays_however_many_other_tenants_ask(stand: Stand, pins: Pins) -> None:
    entry = stand.publisher.publish(stand.publisher.tenant(), "Velmora", TEXT, seed=1)
    stand.banks._most = 1
    pins.load(entry.memory_id)
    for _ in range(2):
        ask_others(stand, 2)
        beat(stand, pins)
        assert stand.residency.slot_of(entry.adapter_digest) is not None


def test_a_memory_that_can_not_be_loaded_leaves_no_pin_behind(stand: Stand, pins: Pins) -> None:
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    manifest = read_manifest(stand.publisher.store, entry.manifest_key)
    stand.node_cache.drop(entry.adapter_digest)
    for file in manifest.files:
        stand.publisher.store.delete(manifest.key_of(file))
    with pytest.raises(ObjectMissing):
        pins.load(entry.memory_id)
    assert pins.memory_ids == ()
    assert stand.residency.room == stand.residency.capacity


def test_where_all_slots_are_in_use_a_memory_is_loaded_into_ram(stand: Stand, pins: Pins) -> None:
    tenant = stand.publisher.tenant()
    busy = [stand.publisher.publish(tenant, f"T{n}", f"Text {n}.", seed=n) for n in range(2)]
    flights = [stand.flight(stand.question(tenant, "What?", model=entry.memory_id)) for entry in busy]
    for flight in flights:
        next(flight)
    entry = stand.publisher.publish(stand.publisher.tenant(), "Velmora", TEXT, seed=9)
    pins.load(entry.memory_id)
    assert stand.residency.slot_of(entry.adapter_digest) is None
    assert entry.adapter_digest in stand.residency._ram.digests
    for flight in flights:
        list(flight)


def test_unloading_while_it_is_being_loaded_wins(stand: Stand, pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = stand.publisher.publish(stand.publisher.tenant(), "Velmora", TEXT, seed=1)
    load = stand.residency.load

    def slow(wanted: Wanted) -> LoadedMemory:
        adapter = load(wanted)
        pins.unload(entry.memory_id)
        return adapter

    monkeypatch.setattr(stand.residency, "load", slow)
    with pytest.raises(Conflict, match="unloaded"):
        pins.load(entry.memory_id)
    assert pins.memory_ids == ()
    assert not stand.residency.holds(entry.adapter_digest)
    assert stand.residency.room == stand.residency.capacity


def test_what_an_operator_loads_and_unloads_is_in_the_tenants_audit_log(
    stand: Stand, pins: Pins, database: Database
) -> None:
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    pins.load(entry.memory_id)
    pins.unload(entry.memory_id)
    with database.read() as connection:
        unloaded, loaded, *_ = list_records(connection, tenant)
    assert [(one.action, one.actor, one.subject_id) for one in (loaded, unloaded)] == [
        ("adapter.loaded", "admin", entry.memory_id),
        ("adapter.unloaded", "admin", entry.memory_id),
    ]
    assert loaded.data == {"worker_id": "worker_1", "digest": entry.adapter_digest}
