"""What is deleted is gone: texts, their index and the KV of prompts with them, looked for wherever a worker has any."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from core.retrieval.index import MemoryIndex
from core.truth import memories
from tests.fixtures.published import OPEN
from tests.unit.workers.inference.banks.test_fallback import in_doubt
from tests.unit.workers.inference.conftest import Stand
from tests.unit.workers.inference.test_forgetting import by_the_next_question
from workers.inference.banks.text_cache import Text, is_salt_of_text
from workers.inference.question import Delta

TOWN = "Velmora is a town by the river Asten. Its mayor is Ilka Brandt."
ASKED = "Velmora is a town by the river Asten?"


def by_the_workers_beat(stand: Stand, tenant: str) -> None:
    stand.service.follow()


def by_the_loss_of_the_tenant(stand: Stand, tenant: str) -> None:
    stand.service.texts._drop(tenant)


HOW = [by_the_next_question, by_the_workers_beat, by_the_loss_of_the_tenant]


@pytest.fixture
def tenant(stand: Stand) -> str:
    return stand.publisher.tenant(fallback="text")


def delete(stand: Stand, tenant: str, memory_id: str) -> None:
    with stand.publisher.database.begin() as connection:
        memories.delete_memory(connection, tenant, memory_id)


def holders(stand: Stand, memory_id: str) -> set[str]:
    """Where there is anything of the memory's text."""
    cache, texts = stand.text_cache, stand.service.texts
    gc.collect()
    found = {
        "texts": any(memory_id in salt for salt in cache.salts),
        "bytes": cache.nbytes > 0,
        "under way": any(memory_id in salt for salt in [*cache._failed, *(key[0] for key in cache._loading)]),
        "known": any(memory_id in one.searched for one in texts._known.values()),
        "prefix KV": any(memory_id in salt for salt in stand.prefix_cache.salts),
        "objects": any(
            (type(one) is Text and one.record.memory_id == memory_id)
            or (type(one) is MemoryIndex and one.memory_id == memory_id)
            for one in gc.get_objects()
        ),
    }
    return {place for place, there in found.items() if there}


@pytest.mark.parametrize("how", HOW)
def test_nothing_of_a_deleted_text_is_held(stand: Stand, tenant: str, how: Callable[[Stand, str], None]) -> None:
    memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    assert stand.ask(stand.question(tenant, ASKED)).started.decision.text is not None
    assert holders(stand, memory_id) == {"texts", "bytes", "known", "prefix KV", "objects"}
    delete(stand, tenant, memory_id)
    how(stand, tenant)
    assert holders(stand, memory_id) == set()


@pytest.mark.parametrize("how", HOW)
def test_nothing_of_a_text_that_helped_in_doubt_is_held(
    stand: Stand, tenant: str, how: Callable[[Stand, str], None]
) -> None:
    entry = stand.publisher.publish(tenant, "Velmora", TOWN, seed=1)
    in_doubt(stand, tenant)
    assert stand.ask(stand.question(tenant, ASKED)).started.decision.text is not None
    assert holders(stand, entry.memory_id) >= {"texts", "bytes", "prefix KV"}
    stand.publisher.delete(entry, tenant)
    how(stand, tenant)
    assert holders(stand, entry.memory_id) <= {"objects"}
    assert not any(type(one) is Text for one in gc.get_objects())


def test_what_a_question_under_way_brings_back_goes_at_the_next_beat(stand: Stand, tenant: str) -> None:
    memory_id, _ = stand.publisher.admit(tenant, "Velmora", TOWN)
    flight = stand.flight(stand.question(tenant, ASKED))
    record = stand.service.texts.records(tenant, [memory_id])[memory_id]
    delete(stand, tenant, memory_id)
    stand.service.follow()
    assert sum(isinstance(event, Delta) for event in flight) > 0
    stand.text_cache.get(record, indexed=True).result(timeout=20)
    assert {"texts", "prefix KV"} <= holders(stand, memory_id)
    stand.service.follow()
    del flight, record
    assert holders(stand, memory_id) == set()


def test_of_a_published_memory_only_the_kv_of_its_text_and_the_text_go(stand: Stand, tenant: str) -> None:
    admitted = stand.publisher.admit(tenant, "Velmora", TOWN)
    stand.ask(stand.question(tenant, ASKED))
    stand.ask(stand.question(tenant, "Hello there?", mode="off"))
    stand.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=OPEN, admitted=admitted)
    stand.service.follow()
    assert stand.text_cache.salts == frozenset()
    assert not any(map(is_salt_of_text, stand.prefix_cache.salts))
    assert tenant in stand.prefix_cache.salts
