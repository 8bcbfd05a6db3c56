from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from core.truth import jobs, tenants, workers
from core.truth.database import Database
from core.truth.records import Claim, Job, Tenant
from tests.fixtures.truth import add_tenant, admit, claim

LIMITS = jobs.PackLimits(jobs=4, context_bytes=1_000_000, in_flight_per_tenant=16)


def admit_many(truth: Database, tenant: Tenant, count: int, **fields: object) -> list[Job]:
    return [admit(truth, tenant, **fields)[1] for _ in range(count)]


def fill(truth: Database, *pack: Claim, limits: jobs.PackLimits = LIMITS, worker_id: str = "worker") -> list[str]:
    with truth.begin() as connection:
        return [mate.job.id for mate in jobs.claim_mates(connection, pack, worker_id, 60, limits)]


def dispatch(truth: Database, job: Job) -> None:
    with truth.begin() as connection:
        assert jobs.mark_dispatched(connection, job.id) is not None


def ids(made: list[Job]) -> list[str]:
    return [job.id for job in made]


def test_a_pack_is_filled_with_dispatched_jobs_and_then_from_the_backlog(truth: Database) -> None:
    made = admit_many(truth, add_tenant(truth), 6)
    dispatch(truth, made[4])
    assert fill(truth, claim(truth, made[0])) == [made[4].id, made[1].id, made[2].id]
    with truth.read() as connection:
        flight = jobs.in_flight(connection)
    assert (flight.running, flight.unanswered, flight.busy) == (4, 0, {"worker"})


def test_the_backlog_is_shared_fairly_and_charged(truth: Database) -> None:
    flood, small = add_tenant(truth, "flood"), add_tenant(truth, "small")
    flooded, mine = admit_many(truth, flood, 9), admit_many(truth, small, 2)
    taken = fill(truth, claim(truth, flooded[0]), limits=jobs.PackLimits(5, 1_000_000, 16))
    assert set(ids(mine)) <= set(taken)
    with truth.read() as connection:
        charged = jobs.in_flight(connection).charged
    assert charged[small.id] == sum(job.cost_estimate_seconds for job in mine), "what was taken is charged"


def test_a_tenants_cap_on_jobs_in_flight_holds_for_packs(truth: Database) -> None:
    made = admit_many(truth, add_tenant(truth), 6)
    assert fill(truth, claim(truth, made[0]), limits=jobs.PackLimits(6, 1_000_000, 3)) == ids(made[1:3])


def test_a_tenants_own_cap_goes_before_that_of_all_for_packs_too(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        tenants.configure(connection, tenant.id, {"quotas": {"jobs_in_flight": 2}})
    made = admit_many(truth, tenant, 6)
    assert fill(truth, claim(truth, made[0]), limits=jobs.PackLimits(6, 1_000_000, 5)) == ids(made[1:2])


def test_a_context_that_does_not_fit_waits_for_a_pack_of_its_own_and_is_not_charged(truth: Database) -> None:
    tenant = add_tenant(truth)
    (first,) = admit_many(truth, tenant, 1, context_bytes=500)
    (long,) = admit_many(truth, tenant, 1, context_bytes=900)
    (short,) = admit_many(truth, tenant, 1, context_bytes=400)
    limits = jobs.PackLimits(4, 1_000, 16)
    assert fill(truth, claim(truth, first), limits=limits) == [short.id]
    with truth.begin() as connection:
        assert jobs.mark_dispatched(connection, long.id) is not None, "it is still in the backlog"
    assert fill(truth, claim(truth, long), limits=limits) == []


def test_a_job_that_lost_an_attempt_or_has_another_base_is_nobodys_mate(truth: Database) -> None:
    tenant = add_tenant(truth)
    tried, first = admit_many(truth, tenant, 2)
    admit_many(truth, tenant, 1, base_digest="sha256:another")
    with truth.begin() as connection:
        lost = jobs.claim(connection, tried.id, "worker", 60)
        assert lost is not None
        jobs.give_up(connection, lost, 3, "trainer_lost", "The trainer was lost.")
    assert fill(truth, claim(truth, first)) == []


def test_idle_workers_are_left_their_part(truth: Database) -> None:
    with truth.begin() as connection:
        for name in ("one", "two", "of another base"):
            base = "sha256:another" if "another" in name else "sha256:base"
            workers.announce(connection, name, "distillation", "", {"capacity": 4, "base_digest": base}, 60)
    made = admit_many(truth, add_tenant(truth), 5)
    assert fill(truth, claim(truth, made[0], "one"), worker_id="one") == ids(made[1:3])
    assert fill(truth, claim(truth, made[3], "two"), worker_id="two") == ids(made[4:])


def test_many_workers_packing_at_once_take_each_job_once(truth: Database) -> None:
    made = [job for _ in range(3) for job in admit_many(truth, add_tenant(truth), 8)]
    packs = [claim(truth, made[number * 6], f"worker-{number}") for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        filled = pool.map(lambda first: fill(truth, first, worker_id=str(first.job.worker_id)), packs)
        taken = sorted(job_id for mates in filled for job_id in mates)
    assert len(taken) == 12
    assert all(len(list(same)) == 1 for _, same in groupby(taken))
