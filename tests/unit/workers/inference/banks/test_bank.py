from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import update

from core.errors import LatentBankError, ObjectCorrupt
from core.gate.calibration import fit
from core.gate.prior import PRIOR
from core.retrieval.index import Hit
from core.storage.publication import read_manifest
from core.truth.database import Database
from core.truth.memories import delete_memory
from core.truth.records import BankEntry
from core.truth.tables import memories, retrieval_records, tenants
from core.truth.tenants import configure
from tests.fixtures.published import WordEncoder
from tests.unit.core.gate.examples import memory
from tests.unit.workers.inference.conftest import Stand
from workers.inference.banks.bank import Bank, Banks
from workers.inference.tiers.failures import FIRST_PAUSE_SECONDS

TEXT = "Velmora is a town."


@pytest.fixture
def banks(stand: Stand) -> Banks:
    return stand.banks


def repoint(stand: Stand, memory_id: str, manifest_key: str) -> None:
    """What no code of ours does: a row that names another memory's manifest."""
    with stand.publisher.database.begin() as connection:
        connection.execute(update(memories).where(memories.c.id == memory_id).values(manifest_key=manifest_key))
        connection.execute(update(tenants).values(bank_revision=tenants.c.bank_revision + 1))


def reason(bank: Bank, entry: BankEntry) -> LatentBankError:
    return bank.refused[entry.memory_id].failure.problem


def test_an_unchanged_bank_is_not_made_again_and_a_change_keeps_what_stayed(stand: Stand, banks: Banks) -> None:
    tenant = stand.publisher.tenant()
    first = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    before = banks.current(tenant)
    assert banks.current(tenant) is before
    second = stand.publisher.publish(tenant, "Corvina", TEXT, seed=2)
    after = banks.current(tenant)
    assert set(after.members) == {first.memory_id, second.memory_id}
    assert after.members[first.memory_id] is before.members[first.memory_id]
    assert after.revision > before.revision


def test_a_manifest_of_another_memory_or_tenant_is_refused(stand: Stand, banks: Banks) -> None:
    owner, other = stand.publisher.tenant(), stand.publisher.tenant()
    good = stand.publisher.publish(owner, "Velmora", TEXT, seed=1)
    bad = replace(stand.publisher, records=False).publish(other, "Corvina", TEXT, seed=2)
    repoint(stand, bad.memory_id, good.manifest_key)
    bank = banks.current(other)
    assert bank.members == {}
    assert isinstance(reason(bank, bad), ObjectCorrupt)


def test_one_bad_memory_silences_itself_and_is_tried_again_later(stand: Stand, banks: Banks) -> None:
    tenant = stand.publisher.tenant()
    good = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    bad = replace(stand.publisher, records=False).publish(tenant, "Corvina", TEXT, seed=2)
    store = stand.publisher.store
    manifest = read_manifest(store, bad.manifest_key)
    kept = store.get(bad.manifest_key)
    store.delete(bad.manifest_key)
    bank = banks.current(tenant)
    assert set(bank.members) == {good.memory_id}
    with pytest.raises(LatentBankError):
        banks.require(bank, [bad.memory_id])
    store.put(f"{manifest.prefix}/manifest.json", kept)
    banks.refresh_known()
    assert banks.current(tenant) is bank
    stand.clock.now += FIRST_PAUSE_SECONDS
    banks.refresh_known()
    assert set(banks.current(tenant).members) == {good.memory_id, bad.memory_id}


def test_a_bank_is_opened_and_followed_from_the_truth_alone(stand: Stand, banks: Banks) -> None:
    tenant = stand.publisher.tenant()
    first = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    assert set(banks.current(tenant).members) == {first.memory_id}
    second = stand.publisher.publish(tenant, "Corvina", TEXT, seed=2)
    bank = banks.current(tenant)
    assert set(bank.members) == {first.memory_id, second.memory_id}
    assert set(bank.samples) == set(bank.members)
    assert not any(stand.node_cache.contains(entry.adapter_digest) for entry in (first, second))


def test_a_version_from_before_there_were_records_is_read_from_its_files_once(stand: Stand, banks: Banks) -> None:
    tenant = stand.publisher.tenant()
    entry = replace(stand.publisher, records=False).publish(tenant, "Velmora", TEXT, seed=1)
    bank = banks.current(tenant)
    assert set(bank.members) == set(bank.samples) == {entry.memory_id}
    stand.publisher.store.delete(entry.manifest_key)
    stand.node_cache.drop(entry.adapter_digest)
    again = Banks(stand.publisher.database, stand.residency, stand.gates, encoder="words")
    assert set(again.current(tenant).members) == {entry.memory_id}


def test_an_index_of_another_encoder_is_refused(stand: Stand) -> None:
    publisher = stand.publisher
    tenant = publisher.tenant()
    entry = publisher.publish(tenant, "Velmora", TEXT, seed=1)
    banks = Banks(publisher.database, stand.residency, stand.gates, encoder="another")
    assert reason(banks.current(tenant), entry).code == "adapter_invalid"


def test_a_memory_without_samples_file_is_refused(stand: Stand, banks: Banks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fixtures.published.save_samples", lambda *_: None)
    tenant = stand.publisher.tenant()
    entry = replace(stand.publisher, records=False).publish(tenant, "Velmora", TEXT, seed=1)
    assert reason(banks.current(tenant), entry).code == "adapter_invalid"


def test_a_banks_gate_follows_its_memories_and_the_tenants_promise(stand: Stand, banks: Banks) -> None:
    tenant = stand.publisher.tenant()
    assert banks.gate(banks.current(tenant)) == PRIOR
    stand.publisher.publish(tenant, "Velmora", TEXT, seed=1, samples=tuple(memory(1)))
    usual = banks.gate(banks.current(tenant))
    assert usual == fit([memory(1)], 0.05)[0]
    with stand.publisher.database.begin() as connection:
        configure(connection, tenant, {"false_activation": 0.3})
    banks.current(tenant)
    stand.settle()
    assert banks.gate(banks.current(tenant)) == fit([memory(1)], 0.3)[0]


def test_the_least_recently_asked_bank_is_let_go(stand: Stand) -> None:
    publisher = stand.publisher
    banks = Banks(publisher.database, stand.residency, stand.gates, encoder="words", most=2)
    asked = [publisher.tenant() for _ in range(3)]
    held = [banks.current(tenant) for tenant in asked]
    assert banks.current(asked[2]) is held[2]
    assert banks.current(asked[0]) is not held[0]


def test_what_a_late_question_brought_back_after_the_deletion_goes_again(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    kept = stand.publisher.publish(tenant, "Velmora", TEXT, seed=1)
    gone = stand.publisher.publish(tenant, "Corvina", "Corvina is a river.", seed=2)
    for entry in (kept, gone):
        stand.ask(stand.question(tenant, "Where?", model=entry.memory_id))
    late = stand.flight(stand.question(tenant, "Corvina?", model=gone.memory_id))
    with stand.publisher.database.begin() as connection:
        delete_memory(connection, tenant, gone.memory_id)
    stand.banks.refresh_known()
    assert stand.residency.slot_of(gone.adapter_digest) is None
    list(late)
    assert stand.residency.slot_of(gone.adapter_digest) is not None
    stand.banks.refresh_known()
    assert stand.residency.slot_of(gone.adapter_digest) is None
    assert stand.residency.slot_of(kept.adapter_digest) is not None
    assert stand.metric("latentbank_adapter_resident", tier="ram") == 1


def test_a_bank_that_can_not_be_refreshed_holds_up_no_other(
    stand: Stand, banks: Banks, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = stand.publisher.tenant(), stand.publisher.tenant()
    for tenant in (broken, sound):
        banks.current(tenant)
    stand.publisher.publish(sound, "Velmora", TEXT, seed=1)
    current = banks.current

    def faulty(tenant_id: str) -> Bank:
        if tenant_id == broken:
            raise OSError("disk full")
        return current(tenant_id)

    monkeypatch.setattr(banks, "current", faulty)
    banks.refresh_known()
    assert len(banks._banks[sound].members) == 1


def test_memories_of_another_base_take_nobodys_place(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    good = stand.publisher.publish(tenant, "Velmora", "Velmora is a town by the river.", seed=1)
    other = "sha256:" + "0" * 64
    for seed in (2, 3):
        stand.publisher.publish(tenant, "Velmora", "Velmora is a town by the river.", seed=seed, base_digest=other)
    bank = stand.banks.current(tenant)
    assert set(bank.members) == {good.memory_id}
    assert {one.failure.problem.code for one in bank.refused.values()} == {"wrong_base"}
    assert [hit.memory_id for hit in found(stand, bank, "Which river is Velmora by?")] == [good.memory_id]


def test_a_change_that_the_feed_does_not_tell_opens_the_bank_anew(stand: Stand, database: Database) -> None:
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", "Velmora is a town.", seed=1)
    assert entry.memory_id in stand.banks.current(tenant).members
    with database.begin() as connection:
        # As a process of an older release deletes.
        connection.execute(update(memories).where(memories.c.id == entry.memory_id).values(status="deleted"))
        connection.execute(update(tenants).values(bank_revision=tenants.c.bank_revision + 1))
    assert stand.banks.current(tenant).members == {}


def test_vectors_of_another_length_refuse_one_memory_and_not_the_bank(stand: Stand, database: Database) -> None:
    tenant = stand.publisher.tenant()
    kept = stand.publisher.publish(tenant, "Velmora", "Velmora is a town.", seed=1)
    odd = stand.publisher.publish(tenant, "Sark", "Sark has no cars.", seed=2)
    with database.begin() as connection:
        shorter = {"dimension": 128, "vectors": bytes(128)}
        connection.execute(
            update(retrieval_records).where(retrieval_records.c.memory_id == odd.memory_id).values(**shorter)
        )
    bank = stand.banks.current(tenant)
    assert set(bank.members) == {kept.memory_id}
    assert set(bank.refused) == {odd.memory_id}


def found(stand: Stand, bank: Bank, query: str) -> list[Hit]:
    return bank.index.search(query, WordEncoder().encode([query])[0], 2)
