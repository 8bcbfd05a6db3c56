from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from core.errors import BacklogFull, IdempotencyConflict, InvalidRequest, NotFound
from core.ids import new_id
from core.truth import banks, forgetting, jobs, memories, tenants
from core.truth.database import Database
from core.truth.records import Job, Memory
from core.truth.tables import jobs as jobs_table
from tests.fixtures.truth import a_memory, add_tenant, admit, claim, publication


def test_admission_writes_memory_job_and_first_event(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant, title="Pumps", priority=3)
    with truth.read() as connection:
        events = jobs.list_events(connection, tenant.id, job.id)
        assert memories.get_memory(connection, tenant.id, memory.id) == memory
        assert jobs.get_job(connection, tenant.id, job.id) == job
    assert (memory.title, memory.status, memory.metadata, memory.version) == (
        "Pumps",
        "pending",
        {"source": "test"},
        None,
    )
    assert (job.state, job.epoch, job.attempts, job.priority) == ("queued", 0, 0, 3)
    assert [(e.type, e.data["state"]) for e in events] == [("state", "queued")]


def test_a_repeated_request_gets_the_first_answer_and_another_body_a_conflict(truth: Database) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth)
    with truth.begin() as connection:
        first = memories.admit(connection, a_memory(tenant), idempotency_key="k", body_sha256="b", backlog_limit=9)
        again = memories.admit(connection, a_memory(tenant), idempotency_key="k", body_sha256="b", backlog_limit=9)
        foreign = memories.admit(connection, a_memory(other), idempotency_key="k", body_sha256="x", backlog_limit=9)
    assert (first[2], again[2], foreign[2]) == (True, False, True)
    assert first[:2] == again[:2]
    with truth.begin() as connection:
        assert memories.find_idempotent(connection, tenant.id, "k", "b") == first[:2]
        assert memories.find_idempotent(connection, tenant.id, "new", "b") is None
        with pytest.raises(IdempotencyConflict):
            memories.find_idempotent(connection, tenant.id, "k", "other")
        with pytest.raises(IdempotencyConflict):
            memories.admit(connection, a_memory(tenant), idempotency_key="k", body_sha256="other", backlog_limit=9)


def test_the_same_key_sent_many_times_at_once_admits_one_memory(truth: Database) -> None:
    tenant = add_tenant(truth)

    def send(_: int) -> tuple[Memory, Job, bool]:
        with truth.begin() as connection:
            return memories.admit(connection, a_memory(tenant), idempotency_key="k", body_sha256="b", backlog_limit=9)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))
    assert sum(created for _, _, created in answers) == 1
    assert len({(memory.id, job.id) for memory, job, _ in answers}) == 1


def test_a_full_backlog_refuses_and_leaves_nothing_behind(truth: Database) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth)

    def send(_: int) -> bool:
        try:
            with truth.begin() as connection:
                memories.admit(connection, a_memory(tenant), backlog_limit=3)
        except BacklogFull:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(8))) == 3
    with truth.begin() as connection:
        assert len(memories.list_memories(connection, tenant.id)) == 3
        memories.admit(connection, a_memory(other), backlog_limit=3)


def test_an_unknown_tenant_admits_nothing(truth: Database) -> None:
    stray = replace(a_memory(add_tenant(truth)), tenant_id="tenant_unknown")
    with truth.begin() as connection, pytest.raises(NotFound):
        memories.admit(connection, stray, backlog_limit=3)


def test_lists_are_newest_first_and_go_on_after_an_id(truth: Database) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth)
    made = [admit(truth, tenant, collection="a" if i % 2 else "b") for i in range(7)]
    admit(truth, other)
    with truth.read() as connection:
        whole = memories.list_memories(connection, tenant.id, limit=100)
        assert {m.id for m in whole} == {memory.id for memory, _ in made}
        assert whole == sorted(whole, key=lambda m: (m.created_at, m.id), reverse=True)
        paged: list[Memory] = []
        while page := memories.list_memories(connection, tenant.id, after=paged[-1].id if paged else None, limit=3):
            paged += page
        assert paged == whole
        assert len(memories.list_memories(connection, tenant.id, collection="a")) == 3
        all_jobs = jobs.list_jobs(connection, tenant.id, limit=4)
        all_jobs += jobs.list_jobs(connection, tenant.id, after=all_jobs[-1].id, limit=100)
        assert {j.id for j in all_jobs} == {job.id for _, job in made}
        assert [j.id for j in jobs.list_jobs(connection, tenant.id, memory_id=made[2][0].id)] == [made[2][1].id]
        assert jobs.list_jobs(connection, tenant.id, state="running") == []
        with pytest.raises(InvalidRequest):
            memories.list_memories(connection, other.id, after=whole[0].id)


def test_what_is_anothers_is_not_found(truth: Database) -> None:
    ours, theirs = add_tenant(truth), add_tenant(truth)
    memory, job = admit(truth, theirs)
    with truth.begin() as connection:
        for look in (
            lambda: memories.get_memory(connection, ours.id, memory.id),
            lambda: memories.delete_memory(connection, ours.id, memory.id),
            lambda: jobs.get_job(connection, ours.id, job.id),
            lambda: jobs.list_events(connection, ours.id, job.id),
            lambda: jobs.request_cancel(connection, ours.id, job.id),
        ):
            with pytest.raises(NotFound):
                look()
        assert memories.bank(connection, ours.id) == (0, [])
        with pytest.raises(NotFound):
            memories.bank(connection, "tenant_unknown")


def test_deletion_takes_the_memory_out_of_the_bank_once(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    claimed = claim(truth, job)
    with truth.begin() as connection:
        assert jobs.publish(connection, claimed, publication())
        revision, entries = memories.bank(connection, tenant.id)
    assert (revision, [e.memory_id for e in entries]) == (1, [memory.id])
    for _ in range(2):
        with truth.begin() as connection:
            deleted = memories.delete_memory(connection, tenant.id, memory.id)
            assert memories.bank(connection, tenant.id) == (2, [])
            assert memories.list_memories(connection, tenant.id) == []
            assert memories.list_memories(connection, tenant.id, include_deleted=True) == [deleted]
    assert (deleted.status, deleted.purged_at) == ("deleted", None)
    assert deleted.deleted_at is not None


def test_deletion_cancels_a_waiting_job_at_once_and_tells_a_running_one(truth: Database) -> None:
    tenant = add_tenant(truth)
    (waiting_memory, waiting), (running_memory, running) = admit(truth, tenant), admit(truth, tenant)
    claimed = claim(truth, running)
    with truth.begin() as connection:
        memories.delete_memory(connection, tenant.id, waiting_memory.id)
        memories.delete_memory(connection, tenant.id, running_memory.id)
    with truth.begin() as connection:
        ended = jobs.get_job(connection, tenant.id, waiting.id)
        assert (ended.state, ended.reason) == ("cancelled", "memory_deleted")
        assert jobs.renew(connection, claimed, 60).cancel_requested
        assert jobs.finish(connection, claimed, "cancelled", "memory_deleted").state == "cancelled"
        assert memories.get_memory(connection, tenant.id, running_memory.id).status == "deleted"


def test_a_deleted_memory_is_purged_only_when_no_job_of_it_is_open(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    claimed = claim(truth, job)
    with truth.begin() as connection:
        memories.delete_memory(connection, tenant.id, memory.id)
        assert memories.deleted_unpurged(connection, 10) == []
        jobs.finish(connection, claimed, "cancelled", "memory_deleted")
        assert [m.id for m in memories.deleted_unpurged(connection, 10)] == [memory.id]
        forgetting.purge_rows(connection, [memory.id])
        assert memories.deleted_unpurged(connection, 10) == []
        assert memories.get_memory(connection, tenant.id, memory.id).purged_at is not None


def test_the_collector_learns_which_memories_have_open_jobs(truth: Database) -> None:
    tenant = add_tenant(truth)
    (open_memory, _), (done_memory, done) = admit(truth, tenant), admit(truth, tenant)
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, done.id)
        rows = memories.by_ids(connection, [open_memory.id, done_memory.id, "mem_unknown"])
        assert {id_: has_open for id_, (_, has_open) in rows.items()} == {open_memory.id: True, done_memory.id: False}
        assert connection.execute(select(func.count()).select_from(jobs_table)).scalar_one() == 2


def test_live_digests_are_those_of_memories_of_any_tenant_that_are_not_deleted(truth: Database) -> None:
    digests = {}
    for number, name in enumerate(("kept", "deleted")):
        tenant = add_tenant(truth)
        memory, job = admit(truth, tenant)
        claimed = claim(truth, job)
        digests[name] = "sha256:" + str(number) * 64
        with truth.begin() as connection:
            assert jobs.publish(connection, claimed, replace(publication(), adapter_digest=digests[name]))
            if name == "deleted":
                memories.delete_memory(connection, tenant.id, memory.id)
    with truth.read() as connection:
        assert memories.live_digests(connection, [*digests.values(), "sha256:unknown"]) == {digests["kept"]}
        assert memories.live_digests(connection, []) == set()


def test_an_admission_moves_the_banks_revision_only_where_texts_serve(truth: Database) -> None:
    plain, eager = add_tenant(truth), add_tenant(truth, "eager")
    with truth.begin() as connection:
        eager = tenants.configure(connection, eager.id, {"fallback": "text"})
    for tenant, moved in ((plain, 0), (eager, 1)):
        admit(truth, tenant)
        with truth.read() as connection:
            assert banks.bank_revision(connection, tenant.id) == tenant.bank_revision + moved


def test_texts_are_of_memories_that_wait_or_failed_newest_first_and_of_none_that_is_deleted(truth: Database) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth, "other")
    admit(truth, other)
    waiting, _ = admit(truth, tenant, title="waits")
    failed, failed_job = admit(truth, tenant, title="failed")
    ready, ready_job = admit(truth, tenant, title="ready")
    deleted, _ = admit(truth, tenant, title="deleted")
    held, failing = claim(truth, ready_job), claim(truth, failed_job)
    with truth.begin() as connection:
        assert jobs.publish(connection, held, publication())
        jobs.finish(connection, failing, "failed", "training_failed")
        memories.delete_memory(connection, tenant.id, deleted.id)
    with truth.read() as connection:
        found = memories.without_adapter(connection, tenant.id, 10)
        assert [record.memory_id for record in found] == [failed.id, waiting.id]
        assert memories.without_adapter(connection, tenant.id, 1) == found[:1]
        ids = [waiting.id, ready.id, deleted.id, new_id("mem")]
        assert set(memories.contexts(connection, tenant.id, ids)) == {waiting.id, ready.id}
        assert memories.contexts(connection, other.id, ids) == memories.contexts(connection, tenant.id, []) == {}
    assert (found[1].context_key, found[1].title) == (waiting.context_key, "waits")
