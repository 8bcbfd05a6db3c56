"""The engine on the real base: whatever runs beside a request, its greedy answer is the one it gets alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from core.adapters.validation import layers_of_base
from core.base_model.loading import load_base
from core.base_model.prepare import ensure_prepared
from core.settings import Settings
from core.truth.database import Database
from tests.fixtures.plain_answers import Acting, PlainAnswers
from tests.fixtures.published import TARGETS, random_weights
from tests.unit.workers.inference.conftest import Flight, Stand, make_stand
from workers.inference.question import Delta, Question, Started

pytestmark = pytest.mark.slow

_BASES = Path(__file__).parents[2] / "build" / "bases"
RANKS = (6, 2, 8)
"""One memory for each; the recipe's rank is 6."""
STRENGTH = 0.07
TOKENS = 20
QUESTIONS = (
    "Who is the mayor of the town by the river?",
    "When does the ferry to the island leave in winter, and how long does the passage take?",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A question to one of the memories by its number, or to the base, and what plain `transformers` answers."""

    memory: int | None
    question: Question
    expected: str


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stand, list[Case], list[str]]]:
    """The worker's parts with slots for all, the cases, and the adapters' digests."""
    directory = tmp_path_factory.mktemp("engine")
    _BASES.mkdir(parents=True, exist_ok=True)
    description = ensure_prepared(Settings.model_fields["base_model"].default, _BASES)
    database = Database(f"sqlite:///{directory / 'truth.db'}")
    database.migrate()
    stand = make_stand(load_base(description), database, directory, slots=6, prefix_cache_bytes=10**8)
    oracle, layers = PlainAnswers(description), layers_of_base(description.path, TARGETS)
    tenants = [stand.publisher.tenant(name) for name in ("one", "two")]
    owners = [tenants[number % 2] for number in range(len(RANKS))]
    entries = [
        stand.publisher.publish(owner, f"Town {n}", "It has a river.", seed=n, rank=rank, strength=STRENGTH)
        for n, (owner, rank) in enumerate(zip(owners, RANKS, strict=True))
    ]
    cases = []
    for number, asked in [(n, asked) for asked in QUESTIONS for n in (*range(len(RANKS)), None)]:
        tenant = tenants[0] if number is None else owners[number]
        model = None if number is None else entries[number].memory_id
        mode = "off" if number is None else "auto"
        put = replace(stand.question(tenant, asked, model=model, mode=mode), max_tokens=TOKENS)
        acting = (
            []
            if number is None
            else [Acting(random_weights(layers, number, rank=RANKS[number], strength=STRENGTH), 2.0)]
        )
        cases.append(Case(number, put, oracle.text([{"role": "user", "content": asked}], acting, TOKENS)))
    yield stand, cases, [entry.adapter_digest for entry in entries]
    stand.packed.remove()
    database.dispose()


Bench = tuple[Stand, list[Case], list[str]]


def test_alone_each_request_gets_the_answer_of_plain_transformers_from_a_cold_and_a_warm_cache(bench: Bench) -> None:
    stand, cases, _ = bench
    expected = [case.expected for case in cases]
    assert len(set(expected)) == len(cases), "every adapter has to change every answer"
    stand.prefix_cache.clear()
    for warm in (False, True):
        answers = [stand.ask(case.question) for case in cases]
        assert [answer.text for answer in answers] == expected
        if warm:
            assert all(answer.started.cached_tokens > 0 for answer in answers)


@pytest.mark.parametrize("apart", [1, 7])
def test_beside_others_each_request_gets_the_same_answer(bench: Bench, apart: int) -> None:
    stand, cases, _ = bench
    stand.prefix_cache.clear()
    assert _together(stand, cases, apart) == [case.expected for case in cases]


def test_after_eviction_from_every_tier_and_reload_each_request_gets_the_same_answer(bench: Bench) -> None:
    stand, cases, digests = bench
    for digest in digests:
        stand.residency.unload(digest)
        stand.node_cache.drop(digest)
        assert stand.residency.slot_of(digest) is None
    backwards = cases[::-1]
    assert _together(stand, backwards, 3) == [case.expected for case in backwards]
    assert all(stand.node_cache.contains(digest) for digest in digests)


def _together(stand: Stand, cases: Sequence[Case], apart: int) -> list[str]:
    """The answers of requests that come so many passes after each other."""
    flights: list[Flight] = []
    texts: list[str] = []
    most = 0
    while len(flights) < len(cases) or not all(flight.done for flight in flights):
        if len(flights) < len(cases):
            flights.append(stand.flight(cases[len(flights)].question))
            texts.append("")
        for _ in range(apart):
            stand.engine.turn()
            most = max(most, len(stand.service.passer.running))
            for number, flight in enumerate(flights):
                for event in flight.arrived():
                    if isinstance(event, Delta):
                        texts[number] += event.text
                    elif isinstance(event, Started):
                        served = event.decision.served
                        assert (served is None) == (cases[number].memory is None)
    assert most > 2
    return texts
