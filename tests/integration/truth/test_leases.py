from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import update

from core.errors import IllegalTransition, LeaseLost
from core.truth import banks, jobs, memories
from core.truth.clock import from_now
from core.truth.database import Database
from core.truth.records import Claim, Job
from core.truth.tables import jobs as jobs_table
from core.truth.tables import memories as memories_table
from tests.fixtures.truth import add_tenant, admit, claim, publication


def test_a_claim_takes_a_waiting_job_once(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    claimed = claim(truth, job, "one")
    assert (claimed.epoch, claimed.job.state, claimed.job.worker_id, claimed.memory) == (1, "running", "one", memory)
    assert claimed.job.started_at is not None
    assert claimed.token not in repr(claimed)
    with truth.begin() as connection:
        assert jobs.claim(connection, job.id, "two", 60) is None
        assert jobs.claim(connection, "job_unknown", "two", 60) is None


def test_of_many_claims_at_once_one_wins(truth: Database) -> None:
    tenant = add_tenant(truth)
    _, job = admit(truth, tenant)

    def try_it(number: int) -> Claim | None:
        with truth.begin() as connection:
            return jobs.claim(connection, job.id, f"worker-{number}", 60)

    with ThreadPoolExecutor(8) as pool:
        won = [c for c in pool.map(try_it, range(8)) if c is not None]
    assert len(won) == 1
    with truth.read() as connection:
        events = jobs.list_events(connection, tenant.id, job.id)
    assert [e.data["state"] for e in events] == ["queued", "running"]


def test_a_heartbeat_prolongs_a_lease_but_never_one_that_ran_out(truth: Database) -> None:
    tenant = add_tenant(truth)
    (_, job), (_, late) = admit(truth, tenant), admit(truth, tenant)
    claimed, expired = claim(truth, job, lease_seconds=30), claim(truth, late, lease_seconds=-0.01)
    with truth.begin() as connection:
        renewal = jobs.renew(connection, claimed, 90)
        assert renewal.held
        assert renewal.lease_until is not None
        assert renewal.lease_until > claimed.lease_until
        assert not jobs.renew(connection, expired, 90).held
        assert not jobs.renew(connection, replace(claimed, token="stolen"), 90).held
        assert not jobs.renew(connection, replace(claimed, epoch=2), 90).held


def test_progress_becomes_events_that_a_reader_can_follow(truth: Database) -> None:
    tenant = add_tenant(truth)
    _, job = admit(truth, tenant)
    claimed = claim(truth, job)
    with truth.begin() as connection:
        jobs.advance(connection, claimed, "self_study", 0.1, "Asking.")
        jobs.advance(connection, claimed, "training", 0.4, "Step 10.", {"loss": 2.5})
        now = jobs.advance(connection, claimed, "training", 0.6, "Step 20.", {"loss": 1.5})
        assert (now.phase, now.progress) == ("training", 0.6)
        events = jobs.list_events(connection, tenant.id, job.id)
        assert [e.type for e in events] == ["state", "state", "phase", "phase", "progress"]
        assert events[-1].data["loss"] == 1.5
        assert jobs.list_events(connection, tenant.id, job.id, after=events[1].id, limit=2) == events[2:4]
        with pytest.raises(IllegalTransition):
            jobs.advance(connection, claimed, "self_study", 0.7, "Back?")


def test_publishing_makes_the_memory_ready_in_one_commit(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    claimed = claim(truth, job)
    with truth.begin() as connection:
        assert jobs.publish(connection, claimed, publication())
    with truth.begin() as connection:
        ended = jobs.get_job(connection, tenant.id, job.id)
        ready = memories.get_memory(connection, tenant.id, memory.id)
        revision, entries = memories.bank(connection, tenant.id)
    assert (ended.state, ended.reason, ended.progress, ended.lease_until) == ("succeeded", "published", 1.0, None)
    assert ended.finished_at is not None
    assert (ready.status, ready.version, ready.adapter_digest) == ("ready", 1, "sha256:adapter-1")
    assert (revision, entries[0].manifest_key) == (1, publication().manifest_key)


def test_a_commit_whose_reply_was_lost_is_found_done(truth: Database) -> None:
    tenant = add_tenant(truth)
    _, job = admit(truth, tenant)
    claimed = claim(truth, job)
    for _ in range(2):
        with truth.begin() as connection:
            assert jobs.publish(connection, claimed, publication())
    with truth.begin() as connection:
        assert banks.bank_revision(connection, tenant.id) == 1
        assert not jobs.publish(connection, claimed, publication(key="another"))
        assert not jobs.publish(connection, replace(claimed, token="stolen"), publication())


def test_a_zombie_publishes_nothing(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    zombie = claim(truth, job, "zombie", lease_seconds=-0.01)
    with truth.begin() as connection:
        assert not jobs.publish(connection, zombie, publication()), "its lease has run out"
        assert [j.state for j in jobs.reap(connection, 3)] == ["queued"]
        assert not jobs.publish(connection, zombie, publication()), "the job waits again"
    heir = claim(truth, job, "heir")
    with truth.begin() as connection:
        assert not jobs.publish(connection, zombie, publication()), "another holds it"
        assert not jobs.publish(connection, replace(zombie, epoch=heir.epoch), publication()), "the token is another"
        for act in (
            lambda: jobs.advance(connection, zombie, "training", 0.5, "?"),
            lambda: jobs.finish(connection, zombie, "failed", "internal_error"),
            lambda: jobs.release(connection, zombie),
            lambda: jobs.give_up(connection, zombie, 3, None, None),
        ):
            with pytest.raises(LeaseLost):
                act()
        assert jobs.publish(connection, heir, publication(key="of-the-heir"))
        assert not jobs.publish(connection, zombie, publication()), "it is over"
        assert memories.get_memory(connection, tenant.id, memory.id).manifest_key == "of-the-heir"
        assert heir.epoch == 2


def test_of_many_publications_at_once_those_of_lost_leases_change_nothing_and_the_others_are_made(
    truth: Database,
) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth, "other")
    made = [admit(truth, owner) for owner in (tenant, tenant, tenant, tenant, other)]
    first, expired, taken, cancelled, last = (
        claim(truth, job, lease_seconds=-0.01 if place in (1, 2) else 60) for place, (_, job) in enumerate(made)
    )
    with truth.begin() as connection:
        # Only the second of the two is taken back, and then held by another.
        jobs_mine = update(jobs_table).where(jobs_table.c.id == expired.job.id)
        connection.execute(jobs_mine.values(lease_until=from_now(60)))
        assert [job.id for job in jobs.reap(connection, 3)] == [taken.job.id]
        connection.execute(jobs_mine.values(lease_until=from_now(-0.01)))
        jobs.request_cancel(connection, tenant.id, cancelled.job.id)
    heir = claim(truth, taken.job, "heir")

    def told(place: int) -> list[tuple[str, str]]:
        memory, job = made[place]
        with truth.read() as connection:
            return [(one.type, one.message) for one in jobs.list_events(connection, memory.tenant_id, job.id)]

    before = [told(place) for place in range(5)]
    wanted = [(one, publication(key=one.job.id)) for one in (first, expired, taken, cancelled, last)]
    with truth.begin() as connection:
        assert jobs.publish_all(connection, wanted) == [True, False, False, False, True]

    with truth.read() as connection:
        found = [memories.get_memory(connection, memory.tenant_id, memory.id) for memory, _ in made]
        states = [jobs.get_job(connection, memory.tenant_id, job.id).state for memory, job in made]
        revisions = [banks.bank_revision(connection, owner.id) for owner in (tenant, other)]
    assert [one.status for one in found] == ["ready", "pending", "pending", "pending", "ready"]
    assert [one.manifest_key for one in found] == [first.job.id, None, None, None, last.job.id]
    assert states == ["succeeded", "running", "running", "running", "succeeded"]
    assert revisions == [1, 1]
    new = [told(place)[len(before[place]) :] for place in range(5)]
    assert new == [[("state", "The memory is ready.")], [], [], [], [("state", "The memory is ready.")]]
    with truth.begin() as connection:
        assert jobs.publish(connection, heir, publication(key="of-the-heir")), "who holds it is not hindered"


def test_an_older_version_never_replaces_a_newer(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    held = claim(truth, job)
    with truth.begin() as connection:
        connection.execute(memories_table.update().where(memories_table.c.id == memory.id).values(version=5))
        assert not jobs.publish(connection, held, publication(version=5))
        assert jobs.publish(connection, held, publication(version=6))


def test_cancel_before_the_commit_wins_and_after_it_changes_nothing(truth: Database) -> None:
    tenant = add_tenant(truth)
    (_, first), (memory, second) = admit(truth, tenant), admit(truth, tenant)
    cancelled, published = claim(truth, first), claim(truth, second)
    with truth.begin() as connection:
        told = jobs.request_cancel(connection, tenant.id, first.id)
        assert (told.state, told.cancel_requested) == ("running", True)
        assert jobs.renew(connection, cancelled, 60).cancel_requested
        assert not jobs.publish(connection, cancelled, publication())
        assert jobs.finish(connection, cancelled, "cancelled", "cancel_requested").state == "cancelled"
        assert jobs.publish(connection, published, publication())
        assert jobs.request_cancel(connection, tenant.id, second.id).state == "succeeded"
        assert memories.get_memory(connection, tenant.id, memory.id).status == "ready"


def test_delete_before_the_commit_wins_and_after_it_takes_the_memory_back(truth: Database) -> None:
    tenant = add_tenant(truth)
    (early, first), (late, second) = admit(truth, tenant), admit(truth, tenant)
    loser, winner = claim(truth, first), claim(truth, second)
    with truth.begin() as connection:
        memories.delete_memory(connection, tenant.id, early.id)
        assert not jobs.publish(connection, loser, publication())
        assert jobs.publish(connection, winner, publication())
        memories.delete_memory(connection, tenant.id, late.id)
        assert memories.bank(connection, tenant.id)[1] == []
        assert jobs.get_job(connection, tenant.id, second.id).state == "succeeded"


@pytest.mark.parametrize("rival", ["cancel", "delete"])
def test_publish_racing_a_rival_ends_in_one_of_two_consistent_ways(truth: Database, rival: str) -> None:
    tenant = add_tenant(truth)
    for _ in range(6):
        memory, job = admit(truth, tenant)
        claimed = claim(truth, job)
        start = threading.Barrier(2)

        def publish(start: threading.Barrier = start, claimed: Claim = claimed) -> bool:
            start.wait()
            with truth.begin() as connection:
                return jobs.publish(connection, claimed, publication())

        def oppose(start: threading.Barrier = start, job: Job = job) -> None:
            start.wait()
            with truth.begin() as connection:
                if rival == "cancel":
                    jobs.request_cancel(connection, tenant.id, job.id)
                else:
                    memories.delete_memory(connection, tenant.id, job.memory_id)

        with ThreadPoolExecutor(2) as pool:
            publishing, opposing = pool.submit(publish), pool.submit(oppose)
            published = publishing.result()
            opposing.result()
        with truth.read() as connection:
            job = jobs.get_job(connection, tenant.id, job.id)
            memory = memories.get_memory(connection, tenant.id, memory.id)
        assert job.state == ("succeeded" if published else "running")
        assert job.cancel_requested is not published
        if rival == "delete":
            assert memory.status == "deleted"
        else:
            assert memory.status == ("ready" if published else "pending")


def test_lost_leases_count_up_to_poison_and_others_go_on(truth: Database) -> None:
    tenant = add_tenant(truth)
    (memory, job), (_, healthy) = admit(truth, tenant), admit(truth, tenant)
    held = claim(truth, healthy)
    for attempt in (1, 2, 3):
        claim(truth, job, lease_seconds=-0.01)
        with truth.begin() as connection:
            reaped = jobs.reap(connection, 3)
        assert [(j.id, j.attempts, j.state) for j in reaped] == [
            (job.id, attempt, "failed" if attempt == 3 else "queued")
        ]
    assert (reaped[0].reason, reaped[0].error_code) == ("poison", "lease_expired")
    with truth.begin() as connection:
        assert memories.get_memory(connection, tenant.id, memory.id).status == "failed"
        assert jobs.claim(connection, job.id, "worker", 60) is None
        assert jobs.renew(connection, held, 60).held
        assert jobs.reap(connection, 3) == []


def test_a_planned_shutdown_gives_the_job_back_uncounted(truth: Database) -> None:
    tenant = add_tenant(truth)
    _, job = admit(truth, tenant)
    for _ in range(5):
        claimed = claim(truth, job)
        with truth.begin() as connection:
            released = jobs.release(connection, claimed)
        assert (released.state, released.attempts, released.worker_id, released.phase) == ("queued", 0, None, None)
    assert released.epoch == 5


def test_an_attempt_given_up_counts_and_keeps_its_error_only_at_the_end(truth: Database) -> None:
    tenant = add_tenant(truth)
    _, job = admit(truth, tenant)
    first = claim(truth, job)
    with truth.begin() as connection:
        again = jobs.give_up(connection, first, 2, "storage_error", "The store is away.")
    assert (again.state, again.attempts, again.error_code) == ("queued", 1, None)
    second = claim(truth, job)
    with truth.begin() as connection:
        over = jobs.give_up(connection, second, 2, "storage_error", "The store is away.")
    assert (over.state, over.reason, over.error_code) == ("failed", "poison", "storage_error")


def test_a_cancelled_job_whose_worker_died_is_cancelled_and_not_run_again(truth: Database) -> None:
    tenant = add_tenant(truth)
    _, job = admit(truth, tenant)
    claim(truth, job, lease_seconds=-0.01)
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, job.id)
        reaped = jobs.reap(connection, 3)
    assert [(j.state, j.reason) for j in reaped] == [("cancelled", "cancel_requested")]


def test_a_reason_must_fit_the_end(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    claimed = claim(truth, job)
    with truth.begin() as connection:
        with pytest.raises(ValueError, match="reason"):
            jobs.finish(connection, claimed, "cancelled", "training_failed")
        ended = jobs.finish(connection, claimed, "rejected", "context_unusable", "context_too_long", "Too long.")
    assert (ended.state, ended.error_code, ended.error_message) == ("rejected", "context_too_long", "Too long.")
    with truth.read() as connection:
        assert memories.get_memory(connection, tenant.id, memory.id).status == "failed"
        counts = jobs.count_by_state(connection)
    assert counts["rejected"] == 1
    assert counts["running"] == 0


def test_many_reapers_take_a_job_back_once(truth: Database) -> None:
    tenant = add_tenant(truth)
    for _ in range(5):
        claim(truth, admit(truth, tenant)[1], lease_seconds=-0.01)

    def reap(_: int) -> list[Job]:
        with truth.begin() as connection:
            return jobs.reap(connection, 3)

    with ThreadPoolExecutor(4) as pool:
        taken = [job.id for batch in pool.map(reap, range(4)) for job in batch]
    assert len(taken) == len(set(taken)) == 5
