"""Nobody who holds a tenant's fair share waits for one that comes before it: that is where deadlocks are from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import OperationalError

from core.jobs import fairness
from core.truth import jobs, leases
from core.truth.clock import from_now
from core.truth.database import Database
from core.truth.records import Claim, Tenant
from core.truth.tables import fair_shares
from core.truth.tables import jobs as jobs_table
from tests.fixtures.truth import add_tenant, admit, claim, publication

pytestmark = pytest.mark.parametrize("truth", ["postgresql"], indirect=True)


@pytest.fixture
def tenants(truth: Database) -> list[Tenant]:
    """Two, in the order of their ids."""
    return sorted([add_tenant(truth, "one"), add_tenant(truth, "other")], key=lambda tenant: tenant.id)


@pytest.fixture
def rival(truth: Database, tenants: list[Tenant]) -> Iterator[Callable[[], None]]:
    """Locks the first tenant's share, unless it is locked, and keeps it until the end of the test."""
    with ExitStack() as stack:

        def lock() -> None:
            first = select(fair_shares).where(fair_shares.c.tenant_id == tenants[0].id).with_for_update(nowait=True)
            connection = stack.enter_context(truth.connect())
            try:
                connection.execute(first)
            except OperationalError:
                connection.rollback()

        yield lock


def before_second_call(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, do: Callable[[], None]) -> None:
    real, calls = getattr(module, name), []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            do()
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, call)


def no_waiting(connection: Connection) -> None:
    connection.execute(text("SET LOCAL lock_timeout = '200ms'"))


def held(truth: Database, tenant: Tenant, seconds: float) -> Claim:
    """Of a job whose lease ends in `seconds`."""
    mine = claim(truth, admit(truth, tenant)[1])
    with truth.begin() as connection:
        lease = update(jobs_table).where(jobs_table.c.id == mine.job.id).values(lease_until=from_now(seconds))
        connection.execute(lease)
    return mine


def test_many_jobs_of_several_tenants_are_reaped(
    truth: Database, tenants: list[Tenant], rival: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    held(truth, tenants[1], -20.0)
    held(truth, tenants[0], -10.0)
    before_second_call(monkeypatch, leases, "_lose", rival)
    with truth.begin() as connection:
        no_waiting(connection)
        assert [job.tenant_id for job in jobs.reap(connection, 3)] == [tenants[1].id, tenants[0].id]


def test_versions_of_several_tenants_are_published_at_once(
    truth: Database, tenants: list[Tenant], rival: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    later, sooner = held(truth, tenants[1], 60.0), held(truth, tenants[0], 60.0)
    before_second_call(monkeypatch, leases, "apply_all", rival)
    with truth.begin() as connection:
        no_waiting(connection)
        wanted = [(later, publication(1)), (sooner, publication(2))]
        assert jobs.publish_all(connection, wanted) == [True, True]


def test_a_choice_that_looks_again_asks_for_no_tenant_that_came_meanwhile(
    truth: Database, tenants: list[Tenant], rival: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(8):
        admit(truth, tenants[1])
    real, looked = fairness.select, []

    def look(contenders: Any, capacity: int) -> fairness.Selection:
        if not looked:
            admit(truth, tenants[0])
            rival()
        looked.append([contender.tenant_id for contender in contenders])
        return real(contenders, capacity)

    monkeypatch.setattr(fairness, "select", look)
    with truth.begin() as connection:
        no_waiting(connection)
        gone = jobs.depart(
            connection,
            jobs.in_flight(connection),
            8,
            lambda job_ids: jobs.mark_all_dispatched(connection, job_ids),
            in_flight_per_tenant=100,
        )
    assert len(gone) == 8
    assert looked == [[tenants[1].id], [tenants[1].id]]
