from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from core.errors import Conflict, IdempotencyConflict, NotFound
from core.ids import new_id
from core.storage.keys import revised_context_key
from core.truth import banks, jobs, memories, revisions
from core.truth.database import Database
from core.truth.records import Job, Memory, NewRevision, Tenant
from tests.fixtures.truth import add_tenant, admit, claim, publication


def a_revision(memory: Memory, **fields: object) -> NewRevision:
    job_id = new_id("job")
    new = NewRevision(
        job_id=job_id,
        memory_id=memory.id,
        tenant_id=memory.tenant_id,
        title="A newer manual",
        metadata={"edition": 2},
        kind="text",
        context_key=revised_context_key(memory.tenant_id, memory.id, job_id),
        context_sha256="1" * 64,
        context_bytes=2000,
        context_tokens=500,
        base_digest="sha256:base",
        cost_estimate_seconds=60.0,
        replaces=memory.version,
    )
    return replace(new, **fields)  # type: ignore[arg-type]


def revise(truth: Database, memory: Memory, key: str | None = None, body: str = "a") -> tuple[Memory, Job, bool]:
    with truth.begin() as connection:
        return revisions.revise(
            connection, a_revision(memory), idempotency_key=key, body_sha256=body, backlog_limit=100
        )


def ready(truth: Database, tenant: Tenant) -> Memory:
    memory, job = admit(truth, tenant)
    claimed = claim(truth, job)
    with truth.begin() as connection:
        assert jobs.publish(connection, claimed, publication())
        return memories.get_memory(connection, tenant.id, memory.id)


def test_the_old_version_serves_until_the_new_one_is_published_in_one_commit(truth: Database) -> None:
    tenant = add_tenant(truth)
    old = ready(truth, tenant)
    waiting, job, made = revise(truth, old)
    assert made
    assert replace(waiting, updated_at=old.updated_at) == old
    claimed = claim(truth, job)
    assert (claimed.memory.context_key, claimed.memory.title) != (old.context_key, old.title)
    assert (claimed.memory.version, claimed.memory.manifest_key) == (1, old.manifest_key), "what it starts from"
    second = publication(version=2, key="tenants/t/memories/m/adapters/2/1-b/manifest.json")
    with truth.begin() as connection:
        assert [entry.version for entry in memories.bank(connection, tenant.id)[1]] == [1]
        before = banks.bank_revision(connection, tenant.id)
        assert jobs.publish(connection, claimed, second)
        assert jobs.publish(connection, claimed, second), "asked again after a reply that got lost"
        now = memories.get_memory(connection, tenant.id, old.id)
        assert banks.bank_revision(connection, tenant.id) == before + 1
        assert [(entry.version, entry.title) for entry in memories.bank(connection, tenant.id)[1]] == [
            (2, "A newer manual")
        ]
    assert (now.status, now.version, now.metadata, now.context_tokens) == ("ready", 2, {"edition": 2}, 500)
    assert now.context_key == claimed.memory.context_key


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_new_version_that_comes_to_nothing_leaves_the_old_one_serving(truth: Database, how: str) -> None:
    tenant = add_tenant(truth)
    old = ready(truth, tenant)
    _, job, _ = revise(truth, old)
    with truth.begin() as connection:
        if how == "failed":
            claimed = jobs.claim(connection, job.id, "worker", 60)
            assert claimed is not None
            jobs.finish(connection, claimed, "failed", "training_failed", "training_failed", "No.")
        else:
            jobs.request_cancel(connection, tenant.id, job.id)
        now = memories.get_memory(connection, tenant.id, old.id)
        assert replace(now, updated_at=old.updated_at) == old
        assert jobs.newest_jobs(connection, [old.id]) == {old.id: job.id}
    assert revise(truth, old)[2], "and it can be tried again"


def test_a_memory_in_work_takes_no_new_version(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    with pytest.raises(Conflict, match=job.id):
        revise(truth, memory)
    old = ready(truth, tenant)
    revise(truth, old)
    with pytest.raises(Conflict, match="in work"):
        revise(truth, old)


def test_of_many_new_versions_at_once_one_is_taken(truth: Database) -> None:
    old = ready(truth, add_tenant(truth))

    def attempt(_: int) -> bool:
        try:
            return revise(truth, old)[2]
        except Conflict:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(attempt, range(4))) == 1


def test_a_repeated_key_gives_the_same_job_and_another_body_is_refused(truth: Database) -> None:
    old = ready(truth, add_tenant(truth))
    _, job, made = revise(truth, old, key="k")
    _, again, made_again = revise(truth, old, key="k")
    assert (made, made_again, again.id) == (True, False, job.id)
    with pytest.raises(IdempotencyConflict):
        revise(truth, old, key="k", body="b")


def test_a_failed_memory_waits_again_with_its_new_context(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, job.id)
    waiting, _, _ = revise(truth, memory)
    assert (waiting.status, waiting.version) == ("pending", None)


def test_a_deleted_or_foreign_memory_takes_no_new_version(truth: Database) -> None:
    tenant = add_tenant(truth)
    old = ready(truth, tenant)
    with pytest.raises(NotFound):
        revise(truth, replace(old, tenant_id=add_tenant(truth, "other").id))
    with truth.begin() as connection:
        memories.delete_memory(connection, tenant.id, old.id)
    with pytest.raises(Conflict, match="deleted"):
        revise(truth, old)


def test_a_pack_counts_the_new_context_and_not_the_old(truth: Database) -> None:
    tenant = add_tenant(truth)
    old = ready(truth, tenant)
    _, revision, _ = revise(truth, old)
    first = claim(truth, admit(truth, tenant)[1])
    for room, taken in ((2999, []), (3000, [revision.id])):
        with truth.begin() as connection:
            limits = jobs.PackLimits(4, room, 16)
            mates = jobs.claim_mates(connection, [first], "worker", 60, limits)
        assert [mate.job.id for mate in mates] == taken


def test_an_update_made_after_another_version_than_the_published_one_is_refused(truth: Database) -> None:
    memory = ready(truth, add_tenant(truth))
    late = a_revision(memory, replaces=None)
    with pytest.raises(Conflict), truth.begin() as connection:
        revisions.revise(connection, late, backlog_limit=100)
