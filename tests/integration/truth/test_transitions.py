"""Many jobs moved at once, from different states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import Row, select, update

from core.errors import IllegalTransition
from core.jobs.states import Advanced, AttemptLost, CancelRequested, Claimed, Phase, Published, Reason, Released
from core.truth import jobs, memories
from core.truth.clock import from_now
from core.truth.database import Database
from core.truth.records import Claim, Job, Tenant
from core.truth.tables import fair_shares
from core.truth.tables import jobs as jobs_table
from core.truth.transitions import Move, apply_all, read_job
from tests.fixtures.truth import add_tenant, admit, claim


def waiting(truth: Database, tenant: Tenant) -> Job:
    return admit(truth, tenant)[1]


def running(truth: Database, tenant: Tenant, seconds: float = 0.0) -> Claim:
    """Claimed `seconds` ago, in training."""
    held = claim(truth, waiting(truth, tenant))
    with truth.begin() as connection:
        jobs.advance(connection, held, "training", 0.5, "Half.")
        mine = jobs_table.c.id == held.job.id
        connection.execute(update(jobs_table).where(mine).values(started_at=from_now(-seconds)))
    return held


def rows(truth: Database, job_ids: Iterable[str]) -> dict[str, Row[Any]]:
    with truth.read() as connection:
        return {job_id: read_job(connection, job_id) for job_id in job_ids}


def events(truth: Database, tenant: Tenant, job_id: str) -> list[tuple[str, str]]:
    with truth.read() as connection:
        return [(event.type, event.message) for event in jobs.list_events(connection, tenant.id, job_id)]


def used(truth: Database, tenant: Tenant) -> float:
    with truth.read() as connection:
        query = select(fair_shares.c.deficit_seconds).where(fair_shares.c.tenant_id == tenant.id)
        return -float(connection.execute(query).scalar_one())


def test_jobs_of_different_states_are_each_moved_once_with_one_event(truth: Database) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth, "other")
    taken, dropped = waiting(truth, tenant), waiting(truth, tenant)
    further, done, lost, back, poison = (running(truth, tenant).job for _ in range(5))
    stopping = running(truth, other).job
    made = [taken, dropped, further, done, lost, back, poison, stopping]
    before = rows(truth, [job.id for job in made])
    told = {job.id: events(truth, other if job is stopping else tenant, job.id) for job in made}
    moves = [
        Move(before[further.id], Advanced(Phase.TRAINING, 0.75), "further"),
        Move(before[taken.id], Claimed(), "taken"),
        Move(before[done.id], Published(), "done"),
        Move(before[dropped.id], CancelRequested(Reason.MEMORY_DELETED), "dropped"),
        Move(before[lost.id], AttemptLost(3), "lost"),
        Move(before[stopping.id], CancelRequested(), "stopping"),
        Move(before[back.id], Released(), "back"),
        Move(before[poison.id], AttemptLost(1), "poison"),
    ]
    with truth.begin() as connection:
        changed = apply_all(connection, moves)

    after = rows(truth, before)
    assert changed == after
    assert {job_id: (row.state, row.epoch, row.attempts) for job_id, row in after.items()} == {
        taken.id: ("running", 1, 1),
        dropped.id: ("cancelled", 0, 0),
        further.id: ("running", 1, 1),
        done.id: ("succeeded", 1, 1),
        lost.id: ("queued", 1, 1),
        back.id: ("queued", 1, 0),
        poison.id: ("failed", 1, 1),
        stopping.id: ("running", 1, 1),
    }
    types = {further.id: "progress", stopping.id: "message"}
    for move in moves:
        tenant_of = other if move.row.id == stopping.id else tenant
        new = events(truth, tenant_of, move.row.id)[len(told[move.row.id]) :]
        assert new == [(types.get(move.row.id, "state"), move.message)]
    assert after[stopping.id].cancel_requested
    assert all((after[one.id].finished_at is None) == (one in (taken, further, lost, back, stopping)) for one in made)
    with truth.read() as connection:
        found = memories.by_ids(connection, [job.memory_id for job in made])
        status = {job.id: found[job.memory_id][0].status for job in made}
    failed = {job_id for job_id, one in status.items() if one == "failed"}
    assert failed == {dropped.id, poison.id}, "only those whose job came to nothing"


def test_what_moved_meanwhile_is_left_out_and_told_nothing_and_the_others_are_moved(truth: Database) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth, "other")
    mine, theirs = waiting(truth, tenant), waiting(truth, tenant)
    held, gone = running(truth, tenant, seconds=100), running(truth, other, seconds=100)
    seen = rows(truth, [mine.id, theirs.id, held.job.id, gone.job.id])
    claim(truth, theirs, "another worker")
    with truth.begin() as connection:
        jobs.release(connection, gone)
    claim(truth, gone.job, "another worker")  # the same state, another epoch
    before, paid = rows(truth, [theirs.id, gone.job.id]), used(truth, other)
    told = events(truth, tenant, theirs.id), events(truth, other, gone.job.id)
    with truth.begin() as connection:
        changed = apply_all(
            connection,
            [
                Move(seen[theirs.id], Claimed(), "Mine."),
                Move(seen[mine.id], Claimed(), "Mine."),
                Move(seen[gone.job.id], AttemptLost(1), "Lost."),
                Move(seen[held.job.id], AttemptLost(1), "Lost."),
            ],
            worker_id="worker",
        )

    assert changed.keys() == {mine.id, held.job.id}
    assert (changed[mine.id].state, changed[held.job.id].state) == ("running", "failed")
    assert rows(truth, before) == before
    assert (events(truth, tenant, theirs.id), events(truth, other, gone.job.id)) == told
    assert events(truth, tenant, mine.id)[-1] == ("state", "Mine.")
    assert events(truth, tenant, held.job.id)[-1] == ("state", "Lost.")
    assert used(truth, other) == paid, "nobody pays for what was not ended"
    assert used(truth, tenant) >= 100
    with truth.read() as connection:
        assert memories.get_memory(connection, other.id, gone.job.memory_id).status == "pending"


def test_a_guard_holds_for_each_job_alone(truth: Database) -> None:
    tenant = add_tenant(truth)
    first, second = (running(truth, tenant).job for _ in range(2))
    found = rows(truth, [first.id, second.id])
    told = events(truth, tenant, first.id)
    with truth.begin() as connection:
        moves = [Move(row, Published(), "done") for row in found.values()]
        changed = apply_all(connection, moves, jobs_table.c.id != first.id)
    assert changed.keys() == {second.id}
    assert rows(truth, [first.id]) == {first.id: found[first.id]}
    assert events(truth, tenant, first.id) == told


def test_one_move_that_is_not_allowed_keeps_all_from_being_written(truth: Database) -> None:
    tenant = add_tenant(truth)
    mine, ended = waiting(truth, tenant), waiting(truth, tenant)
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, ended.id)
    found = rows(truth, [mine.id, ended.id])
    told = events(truth, tenant, mine.id)
    with truth.begin() as connection, pytest.raises(IllegalTransition):
        apply_all(connection, [Move(row, Claimed(), "Mine.") for row in found.values()])
    assert rows(truth, found) == found
    assert events(truth, tenant, mine.id) == told
