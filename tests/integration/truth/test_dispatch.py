from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from sqlalchemy import select, update

from core.jobs import fairness
from core.truth import jobs, tenants
from core.truth.clock import from_now
from core.truth.database import Database
from core.truth.records import Job
from core.truth.tables import fair_shares
from core.truth.tables import jobs as jobs_table
from tests.fixtures.truth import add_tenant, admit, claim


def dispatch(truth: Database, job: Job) -> None:
    with truth.begin() as connection:
        assert jobs.mark_dispatched(connection, job.id) is not None


def deficit(truth: Database, tenant_id: str) -> float:
    with truth.read() as connection:
        query = select(fair_shares.c.deficit_seconds).where(fair_shares.c.tenant_id == tenant_id)
        return float(connection.execute(query).scalar_one())


def charged(truth: Database) -> dict[str, float]:
    with truth.read() as connection:
        return jobs.in_flight(connection).charged


def test_the_backlog_shows_each_tenants_first_jobs_by_priority_and_age(truth: Database) -> None:
    one, two = add_tenant(truth, weight=2.0), add_tenant(truth)
    first, second, urgent = (
        admit(truth, one, priority=p, cost_estimate_seconds=c)[1] for p, c in ((0, 5), (0, 6), (9, 7))
    )
    other = admit(truth, two)[1]
    with truth.begin() as connection:
        flight = jobs.in_flight(connection)
        contenders = {c.tenant_id: c for c in jobs.dispatchable(connection, flight, in_flight_per_tenant=4, heads=2)}
    assert [j.job_id for j in contenders[one.id].waiting] == [urgent.id, first.id]
    assert [j.job_id for j in contenders[two.id].waiting] == [other.id]
    assert (contenders[one.id].weight, contenders[one.id].room, contenders[one.id].waiting[0].cost) == (2.0, 4, 7.0)
    assert second.state == "queued"


def test_what_is_dispatched_or_runs_is_in_flight_and_dispatched_only_once(truth: Database) -> None:
    tenant = add_tenant(truth)
    made = [admit(truth, tenant)[1] for _ in range(4)]
    dispatch(truth, made[0])
    dispatch(truth, made[1])
    claim(truth, made[1])
    with truth.begin() as connection:
        assert jobs.mark_dispatched(connection, made[0].id) is None
        assert jobs.mark_dispatched(connection, made[1].id) is None
        flight = jobs.in_flight(connection)
        (contender,) = jobs.dispatchable(connection, flight, in_flight_per_tenant=3, heads=9)
    assert (flight.running, flight.unanswered, flight.by_tenant) == (1, 1, {tenant.id: 2})
    assert flight.charged == {tenant.id: made[0].cost_estimate_seconds + made[1].cost_estimate_seconds}
    assert (contender.room, contender.in_flight) == (1, flight.charged[tenant.id])
    assert [j.job_id for j in contender.waiting] == [made[2].id, made[3].id]


@pytest.mark.parametrize("counts", [(40, 1, 0), (40, 40, 40), (3, 40, 9), (0, 0, 25)])
def test_a_choice_is_the_same_as_if_it_had_seen_every_job(truth: Database, counts: tuple[int, ...]) -> None:
    made = {add_tenant(truth, f"tenant {place}").id: count for place, count in enumerate(counts)}
    with truth.begin() as connection:
        by_id = {tenant.id: tenant for tenant in tenants.list_tenants(connection)}
    for tenant_id, count in made.items():
        for _ in range(count):
            admit(truth, by_id[tenant_id])
    with truth.begin() as connection:
        flight = jobs.in_flight(connection)
        everything = jobs.dispatchable(connection, flight, in_flight_per_tenant=30, heads=40)
        wanted = fairness.select(everything, 24)
        gone = jobs.depart(
            connection,
            flight,
            24,
            lambda job_ids: jobs.mark_all_dispatched(connection, job_ids),
            in_flight_per_tenant=30,
        )
    assert [departure.job_id for departure in gone] == [job.job_id for job in wanted.picked]
    assert len(gone) == 24


def test_a_changed_weight_counts_at_the_next_dispatch(truth: Database) -> None:
    one, two = add_tenant(truth, "one"), add_tenant(truth, "two")
    for tenant in (one, two):
        for _ in range(12):
            admit(truth, tenant, cost_estimate_seconds=60.0)

    def departed() -> Counter[str]:
        with truth.begin() as connection:
            flight = jobs.in_flight(connection)
            contenders = jobs.dispatchable(connection, flight, in_flight_per_tenant=99, heads=12)
            owners = {job.job_id: c.tenant_id for c in contenders for job in c.waiting}
            take = partial(jobs.mark_all_dispatched, connection)
            gone = jobs.depart(connection, flight, 8, take, in_flight_per_tenant=99)
        return Counter(owners[departure.job_id] for departure in gone)

    assert departed() == {one.id: 4, two.id: 4}
    with truth.begin() as connection:
        tenants.configure(connection, one.id, {"weight": 3.0})
    assert departed() == {one.id: 8}, "of three times the weight it may have three times as much in flight"


@pytest.mark.parametrize(("own", "room"), [(1, 1), (6, 6), (100, 100), (None, 3)])
def test_a_tenants_own_quota_of_jobs_in_flight_goes_before_the_default(
    truth: Database, own: int | None, room: int
) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        tenants.configure(connection, tenant.id, {"quotas": {"jobs_in_flight": own}})
    for _ in range(10):
        admit(truth, tenant)
    with truth.begin() as connection:
        flight = jobs.in_flight(connection)
        (contender,) = jobs.dispatchable(connection, flight, in_flight_per_tenant=3, heads=9)
    assert contender.room == room


def test_a_doorbell_is_overdue_after_its_time_or_when_it_never_rang(truth: Database) -> None:
    tenant = add_tenant(truth)
    fresh, unrung, waiting = (admit(truth, tenant)[1] for _ in range(3))
    dispatch(truth, fresh)
    dispatch(truth, unrung)
    with truth.begin() as connection:
        jobs.unring(connection, [unrung.id])
        assert jobs.ring_overdue(connection, timeout_seconds=60, limit=0) == []
        assert jobs.ring_overdue(connection, timeout_seconds=60, limit=9) == [unrung.id]
        assert jobs.ring_overdue(connection, timeout_seconds=60, limit=9) == [], "it has just been rung"
        assert jobs.ring_overdue(connection, timeout_seconds=-1, limit=9) == [fresh.id, unrung.id]
    assert waiting.state == "queued"


def test_what_the_estimate_missed_is_settled_at_the_end(truth: Database) -> None:
    tenant = add_tenant(truth)
    _, job = admit(truth, tenant, cost_estimate_seconds=100.0)
    dispatch(truth, job)
    claimed = claim(truth, job)
    with truth.begin() as connection:
        connection.execute(update(jobs_table).values(started_at=from_now(-3600)))
        jobs.finish(connection, claimed, "failed", "training_failed")
    assert charged(truth) == {}
    assert deficit(truth, tenant.id) == pytest.approx(-3600.0, abs=5.0), "what it took, and not what was thought"
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, job.id)
    assert deficit(truth, tenant.id) == pytest.approx(-3600.0, abs=5.0), "and only once"


def test_jobs_of_one_run_are_each_settled_for_their_part(truth: Database) -> None:
    tenant = add_tenant(truth)
    alone, *packed = [admit(truth, tenant, cost_estimate_seconds=0.0)[1] for _ in range(5)]
    an_hour_ago = update(jobs_table).values(started_at=from_now(-3600))
    for together in ([alone], packed):
        before = deficit(truth, tenant.id)
        claims = [claim(truth, job) for job in together]
        with truth.begin() as connection:
            jobs.run_together(connection, claims)
            connection.execute(an_hour_ago)
            for claimed in claims:
                jobs.finish(connection, claimed, "failed", "training_failed")
        assert before - deficit(truth, tenant.id) == pytest.approx(3600.0, abs=20.0)


def test_a_dispatched_job_that_is_cancelled_costs_nothing(truth: Database) -> None:
    tenant = add_tenant(truth)
    _, job = admit(truth, tenant, cost_estimate_seconds=40.0)
    dispatch(truth, job)
    assert charged(truth) == {tenant.id: 40.0}
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, job.id)
    assert (deficit(truth, tenant.id), charged(truth)) == (0.0, {})


def test_a_job_that_comes_back_is_charged_anew(truth: Database) -> None:
    tenant = add_tenant(truth)
    _, job = admit(truth, tenant, cost_estimate_seconds=40.0)
    dispatch(truth, job)
    claim(truth, job, lease_seconds=-0.01)
    with truth.begin() as connection:
        jobs.reap(connection, 3)
        row = connection.execute(select(jobs_table).where(jobs_table.c.id == job.id)).one()
        assert (row.charged_seconds, row.dispatched_at, row.rung_at) == (0.0, None, None)
        assert jobs.mark_dispatched(connection, job.id) is not None


def test_pending_work_counts_what_waits_and_what_is_left_of_what_runs(truth: Database) -> None:
    tenant = add_tenant(truth)
    (_, running), (_, ended) = (admit(truth, tenant, cost_estimate_seconds=100.0) for _ in range(2))
    admit(truth, tenant, cost_estimate_seconds=30.0)
    claimed = claim(truth, running)
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, ended.id)
        jobs.advance(connection, claimed, "training", 0.75, "On the way.")
        assert jobs.pending_device_seconds(connection) == pytest.approx(55.0)
