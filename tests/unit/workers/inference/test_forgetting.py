"""What is deleted is gone: looked for wherever a worker keeps anything of a memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.adapters.packed import PackedAdapters
from core.gate.prior import PRIOR
from core.retrieval.index import MemoryIndex
from core.storage.publication import read_manifest
from core.truth.records import BankEntry
from tests.unit.workers.inference.conftest import Stand
from workers.inference.banks.bank import Member

TEXT = "Velmora is a town by the river Asten. Its mayor is Ilka Brandt."
ASKED = "Who is mayor of Velmora?"


def by_the_next_question(stand: Stand, tenant: str) -> None:
    stand.service.admit(stand.question(tenant, "Hello?", mode="off"))


def by_the_workers_beat(stand: Stand, tenant: str) -> None:
    stand.banks.refresh_known()


def by_the_loss_of_the_tenant(stand: Stand, tenant: str) -> None:
    stand.banks._drop(tenant)


@pytest.mark.parametrize("how", [by_the_next_question, by_the_workers_beat, by_the_loss_of_the_tenant])
def test_no_tier_index_or_cache_holds_a_forgotten_memory(
    stand: Stand, tmp_path: Path, how: Callable[[Stand, str], None]
) -> None:
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    assert stand.ask(stand.question(tenant, ASKED)).served_by == entry.memory_id
    assert holders(stand, entry, tmp_path) == {"slots", "slot table", "RAM", "disk", "bank", "gate", "objects"}
    stand.publisher.delete(entry, tenant)
    how(stand, tenant)
    stand.settle()
    assert holders(stand, entry, tmp_path) == set()
    assert stand.gates.current(tenant) == PRIOR
    for tier in ("slot", "ram"):
        assert stand.metric("latentbank_adapter_resident", tier=tier) == 0
        assert stand.metric("latentbank_adapter_resident_bytes", tier=tier) == 0


def test_a_memory_published_in_its_place_brings_nothing_of_it_back(stand: Stand, tmp_path: Path) -> None:
    tenant = stand.publisher.tenant()
    old = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    stand.ask(stand.question(tenant, ASKED))
    stand.publisher.delete(old, tenant)
    new = stand.publisher.publish(tenant, "Velmora", TEXT, seed=2)
    assert stand.ask(stand.question(tenant, ASKED)).served_by == new.memory_id
    stand.settle()
    assert holders(stand, old, tmp_path) <= {"slots", "gate"}
    assert [member.entry for member in stand.banks.current(tenant).members.values()] == [new]


def test_what_a_question_that_knew_the_old_bank_loads_again_goes_again(stand: Stand, tmp_path: Path) -> None:
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    stand.banks.current(tenant)
    manifest = read_manifest(stand.publisher.store, entry.manifest_key)
    stand.publisher.delete(entry, tenant)
    stand.banks.refresh_known()
    assert holders(stand, entry, tmp_path) == set()
    stand.residency.load(manifest)
    assert holders(stand, entry, tmp_path) == {"RAM", "disk", "objects"}
    stand.banks.refresh_known()
    assert holders(stand, entry, tmp_path) == set()


def test_a_memory_that_was_refused_goes_from_the_disk_too(stand: Stand, tmp_path: Path) -> None:
    tenant = stand.publisher.tenant()
    publisher = replace(stand.publisher, records=False)
    entry = publisher.publish(tenant, "Velmora", TEXT, seed=1)
    stand.banks._encoder = "another"
    assert set(stand.banks.current(tenant).refused) == {entry.memory_id}
    assert stand.node_cache.contains(entry.adapter_digest)
    stand.publisher.delete(entry, tenant)
    stand.banks.refresh_known()
    assert holders(stand, entry, tmp_path) == set()


def holders(stand: Stand, entry: BankEntry, directory: Path) -> set[str]:
    """Where there is anything of the memory, or, for slots and gates, of any."""
    digest, residency = entry.adapter_digest, stand.residency
    bank = stand.banks._banks.get(next(iter(stand.banks._banks), ""))
    basis = stand.gates._wanted.get(bank.tenant_id) if bank else None
    named = digest.removeprefix("sha256:")
    gc.collect()
    found = {
        "slots": written(stand.packed),
        "slot table": digest in residency._table.digests or residency.slot_of(digest) is not None,
        "RAM": digest in residency._ram.digests or digest in residency._ram._adapters,
        "waiting": digest in {*residency._failed, *residency._loading, *residency._forgotten, *residency._pinned},
        "disk": any(named in str(path) for path in (directory / "node-cache").rglob("*")),
        "bank": bank is not None and (entry.memory_id in {*bank.members, *bank.refused} or indexed(stand, entry)),
        "gate": basis is not None and not basis.empty,
        "objects": any(entry.memory_id == _id_of(one) for one in gc.get_objects()),
    }
    return {place for place, there in found.items() if there}


def written(packed: PackedAdapters) -> bool:
    """Whether any slot is not zero."""
    return any(
        bool(layer.a.any() or layer.b.any() or layer.scale.any()) or any(layer.ranks)
        for layer in packed.layers.values()
    )


def indexed(stand: Stand, entry: BankEntry) -> bool:
    return any(entry.memory_id in {*bank.index._ids, *bank.samples} for bank in stand.banks._banks.values())


def _id_of(one: object) -> str | None:
    """By `type`, because some objects of torch warn when they are asked for their class."""
    if type(one) is Member:
        return one.entry.memory_id
    return one.memory_id if type(one) is MemoryIndex else None
