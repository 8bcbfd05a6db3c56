from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from core.truth.records import WorkerRecord
from gateway.placement import LOAD_BOUND, NOTHING, Known, load_bound, preferred

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDS = [f"worker_{number}" for number in range(8)]
TENANTS = [f"tenant_{number}" for number in range(1000)]


def fleet(ids: Iterable[str]) -> dict[str, WorkerRecord]:
    return {id_: WorkerRecord(id_, "inference", "http://w", {}, NOW) for id_ in ids}


WORKERS = fleet(IDS[:5])


def order(
    tenant: str,
    workers: dict[str, WorkerRecord] = WORKERS,
    in_flight: dict[str, int] | None = None,
    known: Known = NOTHING,
) -> list[str]:
    return [worker.id for worker in preferred(tenant, workers, in_flight or {}, known)]


ids = st.sampled_from(IDS)
fleets = st.sets(ids, min_size=1).map(fleet)
knowledge = st.builds(
    Known, coverage=st.dictionaries(ids, st.floats(0.01, 1.0)), full=st.frozensets(ids), lost=st.frozensets(ids)
)
loads = st.dictionaries(ids, st.integers(0, 20))
tenants = st.sampled_from(TENANTS)


def test_no_worker_is_preferred_where_there_is_none() -> None:
    assert order("tenant_a", {}) == []


def test_a_tenant_keeps_its_worker_whatever_the_order_they_are_listed_in() -> None:
    assert order("tenant_a") == order("tenant_a", fleet(reversed(WORKERS)))


def test_tenants_spread_over_the_workers() -> None:
    first = Counter(order(tenant)[0] for tenant in TENANTS)
    assert all(120 < first[worker] < 280 for worker in WORKERS)


def test_a_worker_with_too_much_under_way_comes_last_and_returns_to_its_place() -> None:
    first, *rest = order("tenant_a")
    assert order("tenant_a", in_flight={first: 9}) == [*rest, first]
    assert order("tenant_a", in_flight=dict.fromkeys(WORKERS, 9))[0] == first


def test_a_second_question_of_a_quiet_tenant_stays_with_its_worker() -> None:
    first = order("tenant_a")[0]
    assert order("tenant_a", in_flight={first: 1})[0] == first


def test_who_holds_more_of_the_bank_comes_first_unless_full_loaded_or_lost() -> None:
    a, b, c, d, e = order("tenant_a")
    coverage = {e: 0.9, d: 0.5, c: 0.4}
    assert order("tenant_a", known=Known(coverage, set(), set())) == [e, d, c, a, b]
    assert order("tenant_a", known=Known(coverage, {e}, set())) == [d, c, a, b, e]
    assert order("tenant_a", known=Known(coverage, set(), {e})) == [d, c, a, b, e]
    assert order("tenant_a", known=Known(coverage, set(), set()), in_flight={e: 9}) == [d, c, a, b, e]


def test_of_those_that_hold_about_as_much_the_least_loaded_comes_first() -> None:
    a, b, c, d, e = order("tenant_a")
    known = Known({e: 0.9, d: 0.5, c: 0.4}, set(), set())
    assert order("tenant_a", known=known, in_flight={e: 1}) == [d, e, c, a, b]
    assert order("tenant_a", known=known, in_flight={e: 1, d: 1}) == [e, d, c, a, b]


def test_of_those_that_hinder_the_full_come_before_the_loaded_and_these_before_the_lost() -> None:
    a, b, c, d, e = order("tenant_a")
    assert order("tenant_a", known=Known({a: 1.0}, {b}, {a}), in_flight={c: 9}) == [d, e, b, c, a]


@given(tenants, fleets, loads, knowledge)
def test_the_order_is_a_permutation_of_the_fleet(
    tenant: str, workers: dict[str, WorkerRecord], in_flight: dict[str, int], known: Known
) -> None:
    assert sorted(order(tenant, workers, in_flight, known)) == sorted(workers)


@given(tenants, fleets, knowledge, ids)
def test_only_the_tenants_of_a_worker_that_leaves_move_and_a_newcomer_takes_only_its_own(
    tenant: str, workers: dict[str, WorkerRecord], known: Known, one: str
) -> None:
    """Without load: what moves for the others is nothing, so of n workers' tenants about 1/n moves."""
    with_it, without = fleet({*workers, one}), fleet({*workers} - {one})
    rest = [worker for worker in order(tenant, with_it, known=known) if worker != one]
    assert order(tenant, without, known=known) == rest


def test_a_newcomer_takes_its_share_of_those_whose_bank_nobody_holds() -> None:
    joined = fleet([*WORKERS, "worker_new"])
    moved = sum(order(tenant)[0] != order(tenant, joined)[0] for tenant in TENANTS)
    assert 0.1 < moved / len(TENANTS) < 0.25


@given(tenants, fleets, loads, knowledge)
def test_nobody_is_sent_more_than_the_bound_while_another_is_there(
    tenant: str, workers: dict[str, WorkerRecord], in_flight: dict[str, int], known: Known
) -> None:
    loaded = {id_: count for id_, count in in_flight.items() if id_ in workers}
    first = order(tenant, workers, loaded, Known(known.coverage, known.full, frozenset()))[0]
    bound = load_bound(sum(loaded.values()), len(workers))
    assert loaded.get(first, 0) < bound


@given(st.integers(0, 10_000), st.integers(1, 1000))
def test_all_requests_fit_within_the_bound(load: int, workers: int) -> None:
    assert load_bound(load, workers) * workers >= LOAD_BOUND * (load + 1)


@given(tenants, fleets, knowledge)
def test_a_worker_outside_the_fleet_changes_nothing(
    tenant: str, workers: dict[str, WorkerRecord], known: Known
) -> None:
    inside = Known(
        {id_: worth for id_, worth in known.coverage.items() if id_ in workers},
        known.full & workers.keys(),
        known.lost & workers.keys(),
    )
    assert order(tenant, workers, known=known) == order(tenant, workers, known=inside)
