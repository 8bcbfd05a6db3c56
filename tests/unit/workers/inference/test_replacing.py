"""A new version under the same id: whoever was admitted goes on with the old one, and nothing of it reaches the new."""

from __future__ import annotations

from pathlib import Path

from core.adapters.validation import layers_of_base
from core.base_model.loading import LoadedBase
from tests.fixtures.plain_answers import Acting, PlainAnswers
from tests.fixtures.published import TARGETS, random_weights
from tests.unit.workers.inference.conftest import Stand
from tests.unit.workers.inference.test_forgetting import holders
from workers.inference.question import Delta, Started

ASKED = "Who is the mayor of Velmora by the river Asten?"


def alone(base: LoadedBase, seed: int) -> str:
    weights = random_weights(layers_of_base(base.description.path, TARGETS), seed)
    return PlainAnswers(base.description).text([{"role": "user", "content": ASKED}], [Acting(weights, 2.0)], 24)


def test_a_new_version_answers_from_a_warm_cache_as_it_does_alone(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    old = stand.publisher.publish(tenant, "Velmora", "A town.", seed=1)
    assert stand.ask(stand.question(tenant, ASKED, model=old.memory_id)).text == alone(stand.base, 1)
    new = stand.publisher.revise(tenant, old, "A city.", seed=2)
    answer = stand.ask(stand.question(tenant, ASKED, model=old.memory_id))
    served = answer.started.decision.served
    assert served is not None
    assert served.digest == new.adapter_digest != old.adapter_digest
    assert answer.started.cached_tokens > 0
    assert answer.text == alone(stand.base, 2) != alone(stand.base, 1)


def test_who_was_admitted_goes_on_with_the_old_version_and_then_nothing_holds_it(stand: Stand, tmp_path: Path) -> None:
    tenant = stand.publisher.tenant()
    old = stand.publisher.publish(tenant, "Velmora", "A town.", seed=1)
    writing, queued = (stand.flight(stand.question(tenant, ASKED, model=old.memory_id)) for _ in range(2))
    assert isinstance(next(writing), Started)
    new = stand.publisher.revise(tenant, old, "A city.", seed=2)
    after = stand.ask(stand.question(tenant, ASKED, model=old.memory_id))
    assert after.text == alone(stand.base, 2)
    for flight in (writing, queued):
        events = [event for event in flight if isinstance(event, Delta)]
        assert "".join(event.text for event in events) == alone(stand.base, 1)
    stand.banks.refresh_known()
    slots, ram, disk = stand.residency.last_used(10)
    assert old.adapter_digest not in (*slots, *ram, *disk)
    assert new.adapter_digest in slots
    assert holders(stand, new, tmp_path) >= {"slots", "slot table", "RAM", "disk", "bank"}


def test_who_is_answered_by_a_memory_that_is_forgotten_is_answered_to_the_end_and_then_nothing_holds_it(
    stand: Stand, tmp_path: Path
) -> None:
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", "A town.", seed=1)
    flight = stand.flight(stand.question(tenant, ASKED, model=entry.memory_id))
    assert isinstance(next(flight), Started)
    stand.publisher.delete(entry, tenant)
    stand.banks.refresh_known()
    stand.settle()
    # Its slot alone is left, for as long as it is answering.
    assert holders(stand, entry, tmp_path) <= {"slots", "slot table", "objects"}
    assert "".join(event.text for event in flight if isinstance(event, Delta)) == alone(stand.base, 1)
    del flight
    assert holders(stand, entry, tmp_path) == set()
