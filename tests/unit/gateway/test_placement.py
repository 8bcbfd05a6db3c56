from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from core.truth.records import WorkerRecord
from gateway.placement import preferred

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WORKERS = [WorkerRecord(f"worker_{number}", "inference", "http://w", {}, NOW) for number in range(5)]
TENANTS = [f"tenant_{number}" for number in range(1000)]


def test_no_worker_is_preferred_where_there_is_none() -> None:
    assert preferred("tenant_a", [], {}) == []


def test_a_tenant_keeps_its_worker_whatever_the_order_they_are_listed_in() -> None:
    assert preferred("tenant_a", WORKERS, {}) == preferred("tenant_a", WORKERS[::-1], {})


def test_tenants_spread_over_the_workers() -> None:
    first = Counter(preferred(tenant, WORKERS, {})[0].id for tenant in TENANTS)
    assert all(120 < first[worker.id] < 280 for worker in WORKERS)


def test_only_the_tenants_of_a_worker_that_leaves_move() -> None:
    gone, *left = WORKERS
    for tenant in TENANTS:
        before = preferred(tenant, WORKERS, {})
        assert preferred(tenant, left, {}) == [worker for worker in before if worker != gone]


def test_a_worker_with_too_much_under_way_comes_last_and_returns_to_its_place() -> None:
    first, *rest = preferred("tenant_a", WORKERS, {})
    assert preferred("tenant_a", WORKERS, {first.id: 9}) == [*rest, first]
    assert preferred("tenant_a", WORKERS, {worker.id: 9 for worker in WORKERS})[0] == first


def test_a_second_question_of_a_quiet_tenant_stays_with_its_worker() -> None:
    first = preferred("tenant_a", WORKERS, {})[0]
    assert preferred("tenant_a", WORKERS, {first.id: 1})[0] == first
