from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from core.adapters.peft_format import LoadedAdapter
from core.errors import AdapterInvalid, ObjectCorrupt
from core.storage.manifest import Manifest
from core.storage.publication import read_manifest
from core.truth.records import BankEntry
from tests.unit.workers.inference.conftest import Stand
from workers.inference.question import Started

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
