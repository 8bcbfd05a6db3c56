from __future__ import annotations

import pytest

from tests.unit.workers.inference.conftest import Stand
from workers.inference.banks import texts as module
from workers.inference.banks.text_cache import salt_of
from workers.inference.banks.texts import Texts

TOWN = "Velmora is a town by the river Asten."


@pytest.fixture
def texts(stand: Stand) -> Texts:
    return stand.service.texts


def loaded(stand: Stand, tenant: str, memory_id: str) -> str:
    """The salt of the memory's text, once it is here."""
    record = stand.service.texts.records(tenant, [memory_id])[memory_id]
    stand.text_cache.get(record, indexed=True).result(timeout=20)
    return salt_of(record)


def test_a_new_memory_is_indexed_at_the_workers_beat_before_anyone_asks(stand: Stand, texts: Texts) -> None:
    tenant = stand.publisher.tenant(fallback="text")
    texts.follow(tenant, 0)
    memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    texts.refresh_known()
    assert stand.text_cache.known(tenant) == {memory_id}
    assert loaded(stand, tenant, memory_id) in stand.text_cache.salts


def test_what_is_known_is_kept_until_the_revision_moves(stand: Stand, texts: Texts) -> None:
    tenant = stand.publisher.tenant(fallback="text")
    first = texts.follow(tenant, 0)
    memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    assert texts.follow(tenant, first.revision) is first
    second = texts.follow(tenant, first.revision + 1)
    assert set(second.searched) == {memory_id}
    assert texts.follow(tenant, 0) is second


def test_the_tenant_that_asked_least_recently_is_let_go_with_its_texts(
    stand: Stand, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_TENANTS", 2)
    tenants = [stand.publisher.tenant(name, fallback="text") for name in ("one", "two", "three")]
    salts = []
    for tenant in tenants[:2]:
        memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
        texts.follow(tenant, 1)
        salts.append(loaded(stand, tenant, memory_id))
    texts.follow(tenants[0], 1)
    texts.follow(tenants[2], 0)
    assert stand.text_cache.salts == {salts[0]}


def test_records_are_of_the_tenant_alone_and_of_nothing_deleted(stand: Stand, texts: Texts) -> None:
    tenant, other = (stand.publisher.tenant(name, fallback="text") for name in ("one", "two"))
    waiting, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    ready = stand.publisher.publish(tenant, "Corvina", TOWN, seed=1)
    gone = stand.publisher.publish(tenant, "Gone", TOWN, seed=2)
    stand.publisher.delete(gone, tenant)
    ids = [waiting, ready.memory_id, gone.memory_id]
    assert set(texts.records(tenant, ids)) == {waiting, ready.memory_id}
    assert texts.records(other, ids) == {}
