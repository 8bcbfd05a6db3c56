from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest
import torch

from core.adapters.peft_format import LoadedAdapter
from core.errors import AdapterInvalid, Conflict, ObjectCorrupt, StorageError
from core.storage.manifest import Manifest
from core.storage.node_cache import ATTEMPTS
from core.storage.publication import read_manifest
from core.truth.records import BankEntry
from tests.unit.workers.inference.conftest import ADAPTER_BYTES, Stand
from workers.inference.question import Started
from workers.inference.tiers.failures import FIRST_PAUSE_SECONDS
from workers.inference.tiers.residency import DOWNLOADS

TEXT = "Velmora is a town."


def published(stand: Stand, seed: int, *, rank: int = 4) -> tuple[BankEntry, Manifest]:
    entry = stand.publisher.publish(stand.publisher.tenant(), "Velmora", TEXT, seed=seed, rank=rank)
    return entry, read_manifest(stand.publisher.store, entry.manifest_key)


def loaded(stand: Stand, seed: int) -> tuple[str, LoadedAdapter]:
    entry, manifest = published(stand, seed)
    return entry.adapter_digest, stand.residency.load(manifest)


def test_a_slot_holds_exactly_the_weights_of_its_digest(stand: Stand) -> None:
    adapters = dict(loaded(stand, seed) for seed in (1, 2))
    lease = stand.residency.acquire(adapters)
    assert lease is not None
    for digest, adapter in adapters.items():
        held = stand.packed.read(lease.slot(digest))
        for name, (a, b) in adapter.weights.items():
            assert torch.equal(held[name][0][: adapter.rank], a)
            assert torch.equal(held[name][1][:, : adapter.rank], b)


def test_a_lease_answers_for_no_digest_but_its_own(stand: Stand) -> None:
    (first, adapter), (second, _) = loaded(stand, 1), loaded(stand, 2)
    lease = stand.residency.acquire({first: adapter})
    assert lease is not None
    assert lease.slot(first) > 0
    with pytest.raises(AdapterInvalid):
        lease.slot(second)
    lease.release()
    lease.release()
    with pytest.raises(AdapterInvalid):
        lease.slot(first)
    assert stand.residency.in_use == 0


def test_slots_in_use_are_never_given_to_another(stand: Stand) -> None:
    first, second, third = (dict([loaded(stand, seed)]) for seed in (1, 2, 3))
    leases = [stand.residency.acquire(first), stand.residency.acquire(second)]
    before = [stand.packed.read(slot) for slot in (1, 2)]
    assert stand.residency.acquire(third) is None
    for slot, weights in zip((1, 2), before, strict=True):
        assert all(torch.equal(weights[name][0], a) for name, (a, _) in stand.packed.read(slot).items())
    assert leases[0] is not None
    leases[0].release()
    assert stand.residency.acquire(third) is not None


def test_a_question_waits_for_a_slot_and_then_goes_on(stand: Stand) -> None:
    leases = [stand.residency.acquire(dict([loaded(stand, seed)])) for seed in (1, 2)]
    tenant = stand.publisher.tenant()
    stand.publisher.publish(tenant, "Velmora", TEXT, seed=3)
    flight = stand.flight(stand.question(tenant, "Velmora?"))
    for _ in range(2):
        assert not stand.engine.turn()
        assert stand.engine.waiting == 1
    assert leases[0] is not None
    leases[0].release()
    assert isinstance(next(flight), Started)
    flight.close()


def test_an_adapter_of_too_high_a_rank_is_refused_and_counted(stand: Stand) -> None:
    _, manifest = published(stand, 1, rank=9)
    with pytest.raises(AdapterInvalid, match="rank is 9"):
        stand.residency.load(manifest)
    assert stand.metric("latentbank_adapter_load_failures_total", reason="adapter_invalid") == 1


def test_bytes_that_are_not_the_manifests_are_refused_and_leave_nothing(stand: Stand) -> None:
    entry, manifest = published(stand, 1)
    file = next(file for file in manifest.files if file.name == "adapter_model.safetensors")
    stand.publisher.store.put(manifest.key_of(file), b"\0" * file.bytes)
    with pytest.raises(ObjectCorrupt):
        stand.residency.load(manifest)
    assert not stand.node_cache.contains(entry.adapter_digest)
    assert stand.metric("latentbank_adapter_load_failures_total", reason="object_corrupt") == 1


def test_many_who_want_an_adapter_at_once_share_one_load(stand: Stand) -> None:
    _, manifest = published(stand, 1)
    with ThreadPoolExecutor(8) as pool:
        adapters = list(pool.map(stand.residency.load, [manifest] * 16))
    assert len({id(adapter) for adapter in adapters}) == 1
    assert stand.metric("latentbank_adapter_load_seconds_count", source="object_store", stage="fetch") == 1


def test_tiers_are_measured(stand: Stand) -> None:
    adapters = dict([loaded(stand, 1)])
    lease = stand.residency.acquire(adapters)
    assert stand.metric("latentbank_adapter_resident", tier="slot") == 1
    assert stand.metric("latentbank_adapter_resident", tier="ram") == 1
    size = sum(adapter.nbytes for adapter in adapters.values())
    assert stand.metric("latentbank_adapter_resident_bytes", tier="ram") == size
    assert stand.metric("latentbank_adapter_load_seconds_count", source="ram", stage="slot") == 1
    assert lease is not None


def test_an_adapter_larger_than_the_budget_is_served_and_not_kept(stand: Stand) -> None:
    (small, _), (_, large) = loaded(stand, 1), published(stand, 2, rank=8)
    stand.residency._ram._budget = 2 * ADAPTER_BYTES
    adapter = stand.residency.load(large)
    assert adapter.nbytes > 2 * ADAPTER_BYTES
    assert stand.residency._ram.digests == (small,)
    lease = stand.residency.acquire({large.adapter_digest: adapter})
    assert lease is not None
    assert lease.slot(large.adapter_digest) > 0


def test_a_pinned_adapter_is_evicted_from_neither_slot_nor_ram(stand: Stand) -> None:
    pinned, adapter = loaded(stand, 1)
    stand.residency.pin(pinned)
    for digest, one in ((pinned, adapter), *(loaded(stand, seed) for seed in (3, 4, 5))):
        lease = stand.residency.acquire({digest: one})
        assert lease is not None
        lease.release()
    assert stand.residency.slot_of(pinned) is not None
    assert pinned in stand.residency._ram.digests
    stand.residency.unpin(pinned)
    for digest, one in (loaded(stand, seed) for seed in (6, 7)):
        lease = stand.residency.acquire({digest: one})
        assert lease is not None
        lease.release()
    assert stand.residency.slot_of(pinned) is None


def test_one_slot_can_not_be_pinned_and_a_question_has_no_more_candidates_than_are_left(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    first, second = (stand.publisher.publish(tenant, "Velmora", TEXT, seed=seed) for seed in (1, 2))
    assert len(stand.service.admit(stand.question(tenant, "Velmora?")).candidates) == 2
    stand.residency.pin(first.adapter_digest)
    stand.residency.pin(first.adapter_digest)
    with pytest.raises(Conflict):
        stand.residency.pin(second.adapter_digest)
    assert len(stand.service.admit(stand.question(tenant, "Velmora?")).candidates) == 1
    stand.residency.forget(first.adapter_digest)
    stand.residency.pin(second.adapter_digest)


def test_a_pin_goes_with_its_bank_though_the_adapter_was_never_loaded(stand: Stand) -> None:
    first, second = (published(stand, seed)[0].adapter_digest for seed in (1, 2))
    stand.residency.pin(first)
    stand.residency.forget_others([second])
    stand.residency.pin(second)
    assert stand.residency.room == stand.residency.capacity - 1


def test_what_is_in_a_slot_is_served_though_ram_disk_and_store_have_lost_it(stand: Stand) -> None:
    entry, manifest = published(stand, 1)
    before = stand.residency.load(manifest)
    lease = stand.residency.acquire({entry.adapter_digest: before})
    assert lease is not None
    lease.release()
    for seed in (2, 3):
        loaded(stand, seed)
    assert entry.adapter_digest not in stand.residency._ram.digests
    lose(stand, manifest)
    after = stand.residency.load(manifest)
    assert after.scale == before.scale
    assert after.weights.keys() == before.weights.keys()
    for name, pair in after.weights.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, before.weights[name], strict=True))


def test_what_failed_is_not_tried_again_before_its_pause_is_over(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    _, manifest = published(stand, 1)
    asked: list[str] = []
    download = stand.publisher.store.download

    def failing(key: str, path: Path) -> None:
        asked.append(key)
        raise StorageError("503 SlowDown")

    monkeypatch.setattr(stand.publisher.store, "download", failing)
    for _ in range(5):
        with pytest.raises(StorageError, match="SlowDown"):
            stand.residency.load(manifest)
    assert asked.count(asked[0]) == ATTEMPTS
    stand.clock.now += FIRST_PAUSE_SECONDS
    with pytest.raises(StorageError):
        stand.residency.load(manifest)
    assert asked.count(asked[0]) == 2 * ATTEMPTS
    monkeypatch.setattr(stand.publisher.store, "download", download)
    stand.clock.now += 2 * FIRST_PAUSE_SECONDS
    assert stand.residency.load(manifest).nbytes > ADAPTER_BYTES
    assert stand.residency._failed == {}
    assert stand.metric("latentbank_adapter_load_failures_total", reason="storage_error") == 2


def test_several_adapters_are_downloaded_side_by_side(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = [published(stand, seed)[1] for seed in (1, 2, 3)]
    together = Barrier(len(manifests), timeout=10)
    download = stand.publisher.store.download

    def waiting(key: str, path: Path) -> None:
        if key.endswith(".safetensors") and "adapter_model" in key:
            together.wait()
        download(key, path)

    monkeypatch.setattr(stand.publisher.store, "download", waiting)
    loads = [stand.residency.prefetch(manifest) for manifest in manifests]
    assert all(load.result(timeout=20).nbytes > ADAPTER_BYTES for load in loads)


def test_a_store_that_hangs_does_not_hold_up_what_is_on_the_disk(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    _, here = published(stand, 1)
    stand.node_cache.fetch(here)
    away = [published(stand, seed)[1] for seed in range(2, 2 + DOWNLOADS + 1)]
    answers = Event()
    download = stand.publisher.store.download

    def hanging(key: str, path: Path) -> None:
        assert answers.wait(timeout=20)
        download(key, path)

    monkeypatch.setattr(stand.publisher.store, "download", hanging)
    loads = [stand.residency.prefetch(manifest) for manifest in away]
    assert stand.residency.prefetch(here).result(timeout=10).nbytes > ADAPTER_BYTES
    assert not any(load.done() for load in loads)
    answers.set()
    assert all(load.result(timeout=20) for load in loads)


def test_what_is_forgotten_while_it_loads_is_kept_nowhere(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, manifest = published(stand, 1)
    begun, answers = Event(), Event()
    download, drop = stand.publisher.store.download, stand.node_cache.drop

    def hanging(key: str, path: Path) -> None:
        begun.set()
        assert answers.wait(timeout=20)
        download(key, path)

    def dropping(digest: str) -> None:
        answers.set()
        drop(digest)

    monkeypatch.setattr(stand.publisher.store, "download", hanging)
    monkeypatch.setattr(stand.node_cache, "drop", dropping)
    load = stand.residency.prefetch(manifest)
    assert begun.wait(timeout=10)
    stand.residency.forget(entry.adapter_digest)
    load.result(timeout=20)
    assert stand.residency._ram.digests == ()
    assert not stand.node_cache.contains(entry.adapter_digest)
    assert (stand.residency._loading, stand.residency._forgotten) == ({}, set())


def lose(stand: Stand, manifest: Manifest) -> None:
    """Node and store have the adapter no more."""
    stand.node_cache.drop(manifest.adapter_digest)
    for file in manifest.files:
        stand.publisher.store.delete(manifest.key_of(file))
