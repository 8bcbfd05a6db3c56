"""What a tenant uses is what its rows say, whoever changed them and however many at once; quotas refuse the rest."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, delete, select, update

from core.errors import BacklogFull, QuotaExceeded, TooMany
from core.truth import jobs, memories, revisions, tenants, usage
from core.truth.database import Database
from core.truth.records import Memory, Quotas, Tenant, Usage
from core.truth.tables import memories as memories_table
from core.truth.tables import tenant_usage
from tests.fixtures.truth import a_memory, add_tenant, admit, claim, publication
from tests.integration.truth.test_revisions import a_revision


def used(truth: Database, tenant: Tenant) -> Usage:
    """As it is kept; by a count it is the same."""
    with truth.begin() as connection:
        kept = usage.usage_of(connection, tenant.id)
        assert not usage.recount(connection, tenant.id)
        assert usage.usage_of(connection, tenant.id) == kept
    return kept


def publish(truth: Database, memory: Memory, job_id: str, version: int = 1, size: int = 4096) -> None:
    with truth.begin() as connection:
        claimed = jobs.claim(connection, job_id, "worker", 60.0)
        assert claimed is not None
        key = f"tenants/t/memories/m/adapters/{version}/1-a/manifest.json"
        assert jobs.publish(connection, claimed, replace(publication(version, key), adapter_bytes=size))


def configure(truth: Database, tenant: Tenant, **quotas: int) -> None:
    with truth.begin() as connection:
        tenants.configure(connection, tenant.id, {"quotas": quotas})


def try_admission(truth: Database, tenant: Tenant, **fields: object) -> type[TooMany] | None:
    try:
        admit(truth, tenant, **fields)
    except TooMany as problem:
        return type(problem)
    return None


def test_usage_follows_a_memory_from_admission_by_versions_to_deletion(truth: Database) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth)
    assert used(truth, tenant) == Usage(0, 0)
    memory, job = admit(truth, tenant, context_bytes=1000)
    assert used(truth, tenant) == Usage(1, 1000)
    publish(truth, memory, job.id, size=4096)
    assert used(truth, tenant) == Usage(1, 5096)
    with truth.begin() as connection:
        newer = a_revision(memory, replaces=1, context_bytes=300)
        _, job, _ = revisions.revise(connection, newer, backlog_limit=9)
    assert used(truth, tenant) == Usage(1, 5096), "the old version serves until the new one does"
    publish(truth, memory, job.id, version=2, size=8000)
    assert used(truth, tenant) == Usage(1, 8300)
    for _ in range(2):
        with truth.begin() as connection:
            memories.delete_memory(connection, tenant.id, memory.id)
    assert used(truth, tenant) == used(truth, other) == Usage(0, 0)


def test_a_new_text_of_a_memory_without_an_adapter_counts_at_once(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant, context_bytes=1000)
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, job.id)
        revisions.revise(connection, a_revision(memory, context_bytes=1700), backlog_limit=9)
    assert used(truth, tenant) == Usage(1, 1700)


def test_usage_is_exact_after_admissions_publications_and_deletions_at_once(truth: Database) -> None:
    tenant = add_tenant(truth)
    made = [admit(truth, tenant) for _ in range(8)]

    def admit_one(_: int) -> None:
        admit(truth, tenant, context_bytes=10)

    def publish_one(place: int) -> None:
        publish(truth, made[place][0], made[place][1].id, size=100)

    def delete_one(place: int) -> None:
        with truth.begin() as connection:
            memories.delete_memory(connection, tenant.id, made[place][0].id)

    def recount(_: int) -> None:
        with truth.begin() as connection:
            usage.recount(connection, tenant.id)

    work: list[tuple[Callable[[int], None], int]] = [
        *((admit_one, n) for n in range(6)),
        *((publish_one, n) for n in range(4)),
        *((delete_one, n) for n in range(4, 8)),
        *((recount, n) for n in range(6)),
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda part: part[0](part[1]), work[::2] + work[1::2]))
    assert used(truth, tenant) == Usage(10, 4 * 1100 + 6 * 10)


def test_a_quota_of_memories_is_kept_also_when_they_come_at_once(truth: Database) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth)
    configure(truth, tenant, memories=3)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: try_admission(truth, tenant), range(8)))
    assert sorted(map(str, outcomes)) == sorted(map(str, [None] * 3 + [QuotaExceeded] * 5))
    assert used(truth, tenant).memories == 3
    assert try_admission(truth, other) is None


def test_a_quota_of_bytes_refuses_what_does_not_fit_and_deleting_makes_room(truth: Database) -> None:
    tenant = add_tenant(truth)
    configure(truth, tenant, bytes=2500)
    first, job = admit(truth, tenant, context_bytes=2000)
    assert try_admission(truth, tenant, context_bytes=501) is QuotaExceeded
    assert try_admission(truth, tenant, context_bytes=500) is None
    larger = a_revision(first, context_bytes=2300)
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, job.id)
        with pytest.raises(QuotaExceeded, match=r"300 bytes more .* 2500 of at most 2500"):
            revisions.revise(connection, larger, backlog_limit=9)
    with truth.begin() as connection:
        memories.delete_memory(connection, tenant.id, first.id)
    assert try_admission(truth, tenant, context_bytes=2000) is None
    assert used(truth, tenant) == Usage(2, 2500)


def test_a_tenants_own_quota_goes_before_the_default(truth: Database) -> None:
    tenant, plain = add_tenant(truth), add_tenant(truth)
    configure(truth, tenant, memories=2)

    def admit_under(connection: Connection, whose: Tenant) -> None:
        memories.admit(connection, a_memory(whose), backlog_limit=9, quotas=Quotas(memories=1, bytes=10_000))

    with truth.begin() as connection:
        for whose in (tenant, tenant, plain):
            admit_under(connection, whose)
        for whose in (tenant, plain):
            with pytest.raises(QuotaExceeded, match="Delete memories"):
                admit_under(connection, whose)


def test_many_memories_are_charged_at_once_or_not_at_all(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        usage.lock_tenant(connection, tenant.id)

        def charge(memories: int, size: int) -> None:
            quotas = Quotas(memories=10, bytes=1000)
            usage.charge(
                connection, tenant.id, memories=memories, size=size, jobs=memories, backlog_limit=8, defaults=quotas
            )

        charge(6, 600)
        with pytest.raises(QuotaExceeded):
            charge(2, 401)
        with pytest.raises(QuotaExceeded):
            charge(5, 10)
        charge(2, 10)
        assert usage.usage_of(connection, tenant.id) == Usage(8, 610)
        left = usage.room(connection, tenant.id, backlog_limit=8, defaults=Quotas(memories=10))
        assert (left.refusal(1), left.after(1).after(1).refusal(0, memories=0)) == (None, None)
        assert isinstance(left.after(1).after(1).refusal(1), QuotaExceeded)


def test_the_backlog_is_counted_only_where_it_may_be_full_and_is_exact_then(truth: Database) -> None:
    tenant = add_tenant(truth)
    made = []
    for _ in range(3):
        with truth.begin() as connection:
            made.append(memories.admit(connection, a_memory(tenant), backlog_limit=3)[1])
    with truth.begin() as connection, pytest.raises(BacklogFull):
        memories.admit(connection, a_memory(tenant), backlog_limit=3)
    claimed = claim(truth, made[0])
    with truth.begin() as connection:
        jobs.request_cancel(connection, tenant.id, made[1].id)
        for _ in range(2):
            memories.admit(connection, a_memory(tenant), backlog_limit=3)
        with pytest.raises(BacklogFull):
            memories.admit(connection, a_memory(tenant), backlog_limit=3)
        jobs.release(connection, claimed)
        assert usage.room(connection, tenant.id, backlog_limit=5, defaults=Quotas(), jobs=2).jobs == 1


def test_jobs_that_run_are_not_forgotten_when_they_come_to_wait_again(truth: Database) -> None:
    """The bound counts them: otherwise the backlog would grow by what is given back."""
    tenant = add_tenant(truth)
    claims = [claim(truth, admit(truth, tenant)[1]) for _ in range(2)]
    with truth.begin() as connection:
        tight = usage.room(connection, tenant.id, backlog_limit=2, defaults=Quotas())
        assert tight.jobs == 2, "running jobs are no backlog"
        for claimed in claims:
            jobs.release(connection, claimed)
        with pytest.raises(BacklogFull):
            memories.admit(connection, a_memory(tenant), backlog_limit=2)


def test_what_a_process_from_before_wrote_is_found_by_the_next_count(truth: Database) -> None:
    tenant, lost = add_tenant(truth), add_tenant(truth)
    memory, _ = admit(truth, tenant)
    admit(truth, lost)
    with truth.begin() as connection:
        connection.execute(
            update(memories_table).where(memories_table.c.id == memory.id).values(context_bytes=1234, adapter_bytes=66)
        )
        connection.execute(delete(tenant_usage).where(tenant_usage.c.tenant_id == lost.id))
        assert set(usage.due_for_recount(connection, 3600, 9)) == {tenant.id, lost.id}
        assert usage.usage_of(connection, tenant.id) == Usage(1, 1000)
        assert usage.usage_of(connection, lost.id) == Usage(1, 1000), "it is counted where it is not kept"
        assert usage.recount(connection, tenant.id)
        assert usage.usage_of(connection, tenant.id) == Usage(1, 1300)
        assert usage.due_for_recount(connection, 3600, 9) == [lost.id]
        assert usage.due_for_recount(connection, 0, 1) == [lost.id]
    admit(truth, lost)
    assert used(truth, lost) == Usage(2, 2000)


def test_the_migration_counts_what_is_there(tmp_path: Path) -> None:
    truth = Database(f"sqlite:///{tmp_path / 'truth.db'}")
    truth.migrate()
    tenant, empty = add_tenant(truth), add_tenant(truth)
    memory, job = admit(truth, tenant)
    publish(truth, memory, job.id, size=50)
    admit(truth, tenant)
    with truth.begin() as connection:
        memories.delete_memory(connection, tenant.id, admit_in(connection, tenant))
        config = Config()
        config.set_main_option("script_location", str(Path(memories.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, "0005")
        command.upgrade(config, "head")
        kept = {row.tenant_id: Usage(row.memories, row.bytes) for row in connection.execute(select(tenant_usage))}
    assert kept == {tenant.id: Usage(2, 2050), empty.id: Usage(0, 0)}
    with truth.begin() as connection:
        assert usage.room(connection, tenant.id, backlog_limit=9, defaults=Quotas()).jobs == 8, "one waits"
    truth.dispose()


def admit_in(connection: Connection, tenant: Tenant) -> str:
    return memories.admit(connection, a_memory(tenant), backlog_limit=9)[0].id
