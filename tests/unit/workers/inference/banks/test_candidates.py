"""A store that fails, files that are damaged, loads that are late: what the answer says, and who serves meanwhile."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from core.errors import AdapterPending, ObjectCorrupt, ObjectMissing, StorageError
from core.storage.manifest import Manifest
from core.storage.publication import read_manifest
from core.truth.records import BankEntry
from tests.unit.workers.inference.conftest import Stand
from workers.inference.api.shapes import memory_report
from workers.inference.banks.candidates import REFUSED_SHOWN, Retrieval
from workers.inference.tiers.failures import FIRST_PAUSE_SECONDS

TOWN = "Velmora is a town by the river Asten. Its mayor is Ilka Brandt."
SHIP = "The ship Corvina left Lubek in 1703. Its captain was Joris Vane."
ASKED = "Who is mayor of Velmora, and who captain of the Corvina?"


@pytest.fixture
def tenant(stand: Stand) -> str:
    return stand.publisher.tenant()


@pytest.fixture
def town(stand: Stand, tenant: str) -> BankEntry:
    return stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, collection="towns")


@pytest.fixture
def ship(stand: Stand, tenant: str) -> BankEntry:
    return stand.publisher.publish(tenant, "Corvina", SHIP, seed=2, collection="ships")


def manifest_of(stand: Stand, entry: BankEntry) -> Manifest:
    return read_manifest(stand.publisher.store, entry.manifest_key)


def weights_key(stand: Stand, entry: BankEntry) -> str:
    manifest = manifest_of(stand, entry)
    return next(manifest.key_of(file) for file in manifest.files if file.name == "adapter_model.safetensors")


def report(stand: Stand, tenant: str, **scope: Any) -> dict[str, Any]:
    return memory_report(stand.ask(stand.question(tenant, ASKED, **scope)).started.decision)


def absent(answer: dict[str, Any]) -> dict[str, str]:
    """Reasons by memory id; those that could not be judged have no score and come after all that could."""
    marked = ["unavailable" in candidate for candidate in answer["candidates"]]
    assert marked == sorted(marked)
    left = [candidate for candidate in answer["candidates"] if "unavailable" in candidate]
    assert all((one["score"], one["threshold"], one["passed"]) == (None, None, False) for one in left)
    return {candidate["memory_id"]: candidate["unavailable"] for candidate in left}


def test_a_missing_adapter_abstains_with_its_reason_and_the_others_answer(
    stand: Stand, tenant: str, town: BankEntry, ship: BankEntry
) -> None:
    stand.publisher.store.delete(weights_key(stand, ship))
    answer = report(stand, tenant, mode="force")
    assert answer["served_by"] == town.memory_id
    assert absent(answer) == {ship.memory_id: "object_missing"}
    assert answer["candidates"][1]["title"] == "Corvina"
    with pytest.raises(ObjectMissing):
        stand.service.admit(stand.question(tenant, ASKED, model=ship.memory_id))
    with pytest.raises(ObjectMissing):
        stand.service.admit(stand.question(tenant, ASKED, ids=(town.memory_id, ship.memory_id)))
    assert stand.metric("latentbank_adapter_load_failures_total", reason="object_missing") == 1
    assert stand.metric("latentbank_candidates_unavailable_total", reason="object_missing") == 1


def test_a_corrupt_adapter_abstains_with_its_reason_and_serves_once_it_is_mended(
    stand: Stand, tenant: str, ship: BankEntry
) -> None:
    key, store = weights_key(stand, ship), stand.publisher.store
    sound = store.get(key)
    store.put(key, sound[:-1] + b"?")
    answer = report(stand, tenant, mode="force")
    assert (answer["served_by"], answer["abstained"]) == (None, True)
    assert absent(answer) == {ship.memory_id: "object_corrupt"}
    assert answer["candidates"][0]["rank"] == 0
    store.put(key, sound)
    stand.banks.refresh_known()
    assert absent(report(stand, tenant)) == {ship.memory_id: "object_corrupt"}
    stand.clock.now += FIRST_PAUSE_SECONDS
    stand.banks.refresh_known()
    answer = report(stand, tenant, mode="force")
    assert (answer["served_by"], absent(answer)) == (ship.memory_id, {})


def test_an_adapter_that_goes_missing_later_keeps_its_place_in_retrieval(
    stand: Stand, tenant: str, town: BankEntry, ship: BankEntry
) -> None:
    stand.banks.current(tenant)
    key, store = weights_key(stand, ship), stand.publisher.store
    kept = store.get(key)
    store.delete(key)
    stand.node_cache.drop(ship.adapter_digest)
    answer = report(stand, tenant, mode="force")
    assert answer["served_by"] == town.memory_id
    assert absent(answer) == {ship.memory_id: "object_missing"}
    assert {candidate["rank"] for candidate in answer["candidates"]} == {0, 1}
    with pytest.raises(ObjectMissing):
        stand.service.admit(stand.question(tenant, ASKED, model=ship.memory_id))
    store.put(key, kept)
    assert absent(report(stand, tenant)) == {ship.memory_id: "object_missing"}
    stand.clock.now += FIRST_PAUSE_SECONDS
    assert absent(report(stand, tenant)) == {}


def test_a_store_that_fails_hurts_nothing_that_is_resident(
    stand: Stand, tenant: str, town: BankEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stand.ask(stand.question(tenant, ASKED))
    assert before.served_by == town.memory_id
    late = stand.publisher.publish(tenant, "Corvina", SHIP, seed=2)

    def failing(*_: object) -> bytes:
        raise StorageError("503 SlowDown")

    for operation in ("get", "download"):
        monkeypatch.setattr(stand.publisher.store, operation, failing)
    stand.prefix_cache.clear()
    during = stand.ask(stand.question(tenant, ASKED))
    assert (during.served_by, during.text) == (town.memory_id, before.text)
    assert absent(memory_report(during.started.decision)) == {late.memory_id: "storage_error"}
    with pytest.raises(StorageError, match="SlowDown"):
        stand.service.admit(stand.question(tenant, ASKED, model=late.memory_id))
    monkeypatch.undo()
    stand.clock.now += FIRST_PAUSE_SECONDS
    stand.banks.refresh_known()
    assert absent(report(stand, tenant)) == {}


def test_a_disk_that_fails_is_as_a_store_that_fails(
    stand: Stand, tenant: str, town: BankEntry, ship: BankEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.residency.load(manifest_of(stand, town))

    def failing(_: object) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for operation in ("contains", "reading"):
        monkeypatch.setattr(stand.node_cache, operation, failing)
    answer = report(stand, tenant, mode="force")
    assert answer["served_by"] == town.memory_id
    assert absent(answer) == {ship.memory_id: "storage_error"}


def test_an_adapter_that_takes_its_time_holds_up_no_other_and_is_there_for_who_asks_next(
    stand: Stand, tenant: str, town: BankEntry, ship: BankEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = stand.banks.current(tenant)
    stand.residency.load(manifest_of(stand, town))
    stand.node_cache.drop(ship.adapter_digest)
    answers, download = Event(), stand.publisher.store.download

    def hanging(key: str, path: Path) -> None:
        assert answers.wait(timeout=20)
        download(key, path)

    monkeypatch.setattr(stand.publisher.store, "download", hanging)
    retrieval = Retrieval(stand.residency, stand.publisher.encoder, top_k=2, wait_seconds=0.0)
    scope = stand.question(tenant, ASKED).scope
    proposed = retrieval.propose(ASKED, scope, bank)
    assert [one.member.entry for one in proposed.candidates] == [town]
    assert [(one.memory_id, one.reason) for one in proposed.absent] == [(ship.memory_id, "adapter_pending")]
    with pytest.raises(AdapterPending):
        retrieval.propose(ASKED, replace(scope, ids=(ship.memory_id,)), bank)
    answers.set()
    stand.residency.load(manifest_of(stand, ship))
    assert len(retrieval.propose(ASKED, scope, bank).candidates) == 2
    assert stand.metric("latentbank_adapter_load_seconds_count", source="node_cache", stage="read") == 2


def test_only_the_scopes_memories_are_named_and_not_too_many(stand: Stand, tenant: str, town: BankEntry) -> None:
    publisher = replace(stand.publisher, records=False)
    lost = [
        publisher.publish(tenant, f"Corvina {i}", SHIP, seed=i, collection="ships") for i in range(REFUSED_SHOWN + 1)
    ]
    for entry in lost:
        stand.publisher.store.delete(entry.manifest_key)
    assert len(absent(report(stand, tenant))) == REFUSED_SHOWN
    assert absent(report(stand, tenant, collection="towns")) == {}
    assert absent(report(stand, tenant, ids=(town.memory_id,))) == {}
    assert absent(report(stand, tenant, mode="off")) == {}


def test_bytes_that_went_bad_on_the_disk_while_the_store_has_lost_them_are_never_served(
    stand: Stand, tenant: str, ship: BankEntry
) -> None:
    stand.banks.current(tenant)
    weights = stand.node_cache.fetch(manifest_of(stand, ship)) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    stand.publisher.store.put(weights_key(stand, ship), b"?")
    assert absent(report(stand, tenant)) == {ship.memory_id: "object_corrupt"}
    with pytest.raises(ObjectCorrupt):
        stand.service.admit(stand.question(tenant, ASKED, model=ship.memory_id))
