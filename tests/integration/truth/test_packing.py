from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from sqlalchemy import update

from core.truth import jobs, tenants, workers
from core.truth.clock import from_now
from core.truth.database import Database
from core.truth.records import Claim, Job, Tenant
from core.truth.tables import jobs as jobs_table
from tests.fixtures.truth import add_tenant, admit, claim

LIMITS = jobs.PackLimits(jobs=4, context_bytes=1_000_000, in_flight_per_tenant=16)


def admit_many(truth: Database, tenant: Tenant, count: int, **fields: object) -> list[Job]:
    return [admit(truth, tenant, **fields)[1] for _ in range(count)]


def fill(truth: Database, *pack: Claim, limits: jobs.PackLimits = LIMITS, worker_id: str = "worker") -> list[str]:
    with truth.begin() as connection:
        return [mate.job.id for mate in jobs.claim_mates(connection, pack, worker_id, 60, limits)]


def begin_next(
    truth: Database, worker_id: str = "worker", base_digest: str = "sha256:base", limits: jobs.PackLimits = LIMITS
) -> Claim | None:
    with truth.begin() as connection:
        return jobs.claim_next(connection, worker_id, base_digest, 60, limits)


def next_id(truth: Database, **fields: object) -> str | None:
    claimed = begin_next(truth, **fields)  # type: ignore[arg-type]
    return claimed and claimed.job.id


def lose_an_attempt(truth: Database, job: Job) -> None:
    """It waits in the backlog again."""
    held = claim(truth, job)
    with truth.begin() as connection:
        jobs.give_up(connection, held, 3, "trainer_lost", "The trainer was lost.")


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
    lose_an_attempt(truth, tried)
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


def test_who_is_free_begins_the_dispatched_job_that_waits_longest_and_then_the_backlog(truth: Database) -> None:
    made = admit_many(truth, add_tenant(truth), 4)
    for job, seconds in ((made[1], 10), (made[2], 30)):
        dispatch(truth, job)
        with truth.begin() as connection:
            since = {"dispatched_at": from_now(-seconds)}
            connection.execute(update(jobs_table).where(jobs_table.c.id == job.id).values(since))
    assert [next_id(truth) for _ in range(5)] == [*ids([made[2], made[1], made[0], made[3]]), None]
    with truth.read() as connection:
        flight = jobs.in_flight(connection)
    assert (flight.running, flight.unanswered, flight.busy) == (4, 0, {"worker"})
    assert sum(flight.charged.values()) == sum(job.cost_estimate_seconds for job in made)


def test_who_is_free_holds_what_it_begins_as_if_its_doorbell_had_rung(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    claimed = begin_next(truth, "one")
    assert claimed is not None
    assert (claimed.job.id, claimed.job.state, claimed.job.worker_id, claimed.epoch) == (job.id, "running", "one", 1)
    assert claimed.memory == memory
    with truth.begin() as connection:
        assert jobs.claim(connection, job.id, "two", 60) is None
        assert jobs.renew(connection, claimed, 60).held
        assert jobs.mark_dispatched(connection, job.id) is None


def test_the_next_of_the_backlog_is_the_one_of_the_tenant_that_used_the_least(truth: Database) -> None:
    flood, small = add_tenant(truth, "flood"), add_tenant(truth, "small")
    flooded = admit_many(truth, flood, 6)
    assert [next_id(truth) for _ in range(2)] == ids(flooded[:2])
    mine = admit_many(truth, small, 2)
    assert [next_id(truth) for _ in range(2)] == ids(mine), "the other has two in flight"
    assert next_id(truth) == flooded[2].id


def test_a_tenant_at_its_cap_is_passed_over_and_alone_gives_nothing(truth: Database) -> None:
    limits = jobs.PackLimits(4, 1_000_000, in_flight_per_tenant=1)
    first, waits = admit_many(truth, add_tenant(truth), 2)
    assert next_id(truth, limits=limits) == first.id
    assert next_id(truth, limits=limits) is None
    (other,) = admit_many(truth, add_tenant(truth, "other"), 1)
    assert next_id(truth, limits=limits) == other.id
    with truth.begin() as connection:
        assert jobs.mark_dispatched(connection, waits.id) is not None, "it is still in the backlog"


def test_of_the_backlog_nobody_begins_what_was_attempted_or_is_of_another_base(truth: Database) -> None:
    tenant = add_tenant(truth)
    (tried,) = admit_many(truth, tenant, 1)
    lose_an_attempt(truth, tried)
    (foreign,) = admit_many(truth, tenant, 1, base_digest="sha256:another")
    assert next_id(truth) is None
    (fresh,) = admit_many(truth, tenant, 1)
    assert next_id(truth) == fresh.id, "it does not wait behind them"
    assert next_id(truth, base_digest="sha256:another") == foreign.id
    dispatch(truth, tried)
    assert next_id(truth) == tried.id, "a doorbell brings it, wherever that rings"


def test_many_workers_that_are_free_at_once_begin_each_job_once(truth: Database) -> None:
    made = [job for number in range(3) for job in admit_many(truth, add_tenant(truth, str(number)), 3)]
    for job in made[::2]:
        dispatch(truth, job)
    with ThreadPoolExecutor(4) as pool:
        begun = list(pool.map(lambda number: next_id(truth, worker_id=f"worker-{number % 4}"), range(12)))
    assert sorted(one for one in begun if one) == sorted(ids(made))
    assert begun.count(None) == 3
