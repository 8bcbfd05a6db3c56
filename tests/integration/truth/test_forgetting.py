from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, func, select, text

from core.errors import BacklogFull, NotFound, Unauthenticated
from core.ids import new_id
from core.truth import api_keys, banks, deletions, forgetting, jobs, memories, migrations, tenant_keys, tenants, workers
from core.truth.audit import ADMIN, Actor, list_records
from core.truth.database import Database
from core.truth.records import Deletion, NewRevision, RetrievalRecord, Tenant, TenantKey
from core.truth.revisions import FIELDS, revise
from core.truth.tables import memories as memories_table
from core.truth.tables import metadata
from tests.fixtures.truth import a_memory, add_tenant, admit, claim, publication

BY = Actor(ADMIN)
PLANTED = "Xylophone-Quartermaster"


def always() -> bool:
    return True


def forget_collection(truth: Database, tenant: Tenant, name: str, go_on: Callable[[], bool] = always) -> Deletion:
    with truth.begin() as connection:
        deletion = forgetting.delete_collection(connection, tenant.id, name, BY)
    forgetting.tombstone_all(truth, deletion, go_on)
    return read(truth, deletion)


def forget_tenant(truth: Database, tenant: Tenant) -> Deletion:
    with truth.begin() as connection:
        return forgetting.delete_tenant(connection, tenant.id, BY)


def read(truth: Database, deletion: Deletion) -> Deletion:
    with truth.read() as connection:
        return deletions.get_deletion(connection, deletion.tenant_id, deletion.id)


def states(truth: Database, tenant: Tenant) -> dict[str, str]:
    with truth.read() as connection:
        found = memories.list_memories(connection, tenant.id, limit=10_000, include_deleted=True)
    return {memory.id: memory.status for memory in found}


def test_a_collection_is_gone_from_the_bank_and_nothing_else_is(truth: Database) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth, "other")
    (ready, job), (waiting, waiting_job) = admit(truth, tenant, collection="a"), admit(truth, tenant, collection="a")
    (kept, _), (theirs, _) = admit(truth, tenant, collection="b"), admit(truth, other, collection="a")
    record = RetrievalRecord("e", 1, b"v", b"t", b"s")
    with truth.begin() as connection:
        claimed = jobs.claim(connection, job.id, "worker", 60)
        assert claimed is not None
        assert jobs.publish(connection, claimed, publication())
        banks.put_record(connection, ready.id, publication().adapter_digest, record)
        before = banks.bank_revision(connection, tenant.id)
    deletion = forget_collection(truth, tenant, "a")
    assert (deletion.state, deletion.memories, deletion.collection) == ("tombstoned", 2, None)
    assert states(truth, tenant) == {ready.id: "deleted", waiting.id: "deleted", kept.id: "pending"}
    assert states(truth, other) == {theirs.id: "pending"}
    with truth.read() as connection:
        assert jobs.get_job(connection, tenant.id, waiting_job.id).reason == "memory_deleted"
        changes = banks.changes(connection, tenant.id, before, 1)
        assert set(changes.gone) == {ready.id, waiting.id}
        assert banks.samples(connection, [ready.id]) == {}
        recorded = list_records(connection, tenant.id, limit=1)[0]
    assert (recorded.action, recorded.data) == ("collection.deleted", {"deletion_id": deletion.id})


def test_a_large_collection_goes_in_batches_and_who_dies_in_the_middle_is_continued(
    truth: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "BATCH", 3)
    tenant = add_tenant(truth)
    for _ in range(10):
        _, job = admit(truth, tenant)
        with truth.begin() as connection:
            jobs.request_cancel(connection, tenant.id, job.id)
    turns = iter([True, True])
    halfway = forget_collection(truth, tenant, "default", lambda: next(turns, False))
    assert (halfway.state, halfway.memories) == ("tombstoning", 6)
    assert list(states(truth, tenant).values()).count("deleted") == 6
    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(lambda _: forgetting.tombstone_all(truth, halfway, always), range(2)))
    assert read(truth, halfway).memories == 10
    assert read(truth, halfway).state == "tombstoned"
    assert set(states(truth, tenant).values()) == {"deleted"}


def test_what_comes_into_a_collection_after_the_wish_stays(truth: Database) -> None:
    tenant = add_tenant(truth)
    old, _ = admit(truth, tenant)
    with truth.begin() as connection:
        deletion = forgetting.delete_collection(connection, tenant.id, "default", BY)
    new, _ = admit(truth, tenant)
    assert forgetting.tombstone_all(truth, deletion, always)
    assert states(truth, tenant) == {old.id: "deleted", new.id: "pending"}


def test_a_memory_in_work_is_cancelled_first_and_purged_when_its_worker_has_stopped(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    claimed = claim(truth, job)
    deletion = forget_collection(truth, tenant, "default")
    with truth.begin() as connection:
        assert jobs.renew(connection, claimed, 60).cancel_requested
        assert not jobs.publish(connection, claimed, publication())
        assert memories.deleted_unpurged(connection, 10) == []
        assert forgetting.in_training(connection, deletion)
        jobs.finish(connection, claimed, "cancelled", "memory_deleted")
        assert [one.id for one in memories.deleted_unpurged(connection, 10)] == [memory.id]
        assert not forgetting.in_training(connection, deletion)


def test_a_memory_is_in_training_until_the_pack_that_it_was_in_has_ended(truth: Database) -> None:
    tenant = add_tenant(truth)
    (memory, first), (_, mate), (_, later) = admit(truth, tenant), admit(truth, tenant), admit(truth, tenant)
    one, two = claim(truth, first), claim(truth, mate)
    with truth.begin() as connection:
        gone = memories.delete_memory(connection, tenant.id, memory.id)
        assert gone.deletion_id is not None
        deletion = deletions.get_deletion(connection, tenant.id, gone.deletion_id)
        jobs.finish(connection, one, "cancelled", "memory_deleted")
        assert forgetting.in_training(connection, deletion), "its context is in the run's directory with its mate's"
        jobs.finish(connection, two, "failed", "training_failed")
    claim(truth, later)
    with truth.read() as connection:
        assert not forgetting.in_training(connection, deletion), "the next run never had it"


def test_a_deleted_tenants_keys_open_nothing_from_that_moment_on(truth: Database) -> None:
    tenant, other = add_tenant(truth), add_tenant(truth, "other")
    with truth.begin() as connection:
        (key, _), (theirs, _) = api_keys.issue_key(connection, tenant.id), api_keys.issue_key(connection, other.id)
        ending, made = api_keys.issue_key(connection, tenant.id)
        api_keys.rotate_key(connection, tenant.id, made.id, grace_seconds=3600)
        tenant_keys.add_first(connection, TenantKey("dek", tenant.id, "master", b"wrapped"))
    deletion = forget_tenant(truth, tenant)
    assert forget_tenant(truth, tenant) == deletion
    with truth.begin() as connection:
        for one in (key, ending):
            with pytest.raises(Unauthenticated):
                api_keys.open_key(connection, one)
        assert {one.revoked_at is None for one in api_keys.list_keys(connection, tenant.id)} == {False}
        assert api_keys.open_key(connection, theirs).tenant == other
        assert [one.id for one in tenants.list_tenants(connection)] == [other.id]
        assert tenant_keys.find(connection, tenant.id, "dek") is None
        assert tenants.living(connection, [tenant.id, other.id]) == {other.id}
        refused: list[Callable[[], object]] = [
            lambda: tenants.get_tenant(connection, tenant.id),
            lambda: api_keys.issue_key(connection, tenant.id),
            lambda: tenants.configure(connection, tenant.id, {"fallback": "text"}),
            lambda: banks.bank_revision(connection, tenant.id),
            lambda: memories.admit(connection, a_memory(tenant), backlog_limit=10),
            lambda: tenant_keys.add_first(connection, TenantKey("two", tenant.id, "master", b"wrapped")),
        ]
        for attempt in refused:
            with pytest.raises(NotFound):
                attempt()
    with pytest.raises(NotFound), truth.begin() as connection:
        forgetting.delete_tenant(connection, new_id("tenant"), BY)


def test_no_admission_slips_past_the_deletion_of_its_tenant(truth: Database) -> None:
    tenant = add_tenant(truth)

    def remember(_: int) -> bool:
        try:
            admit(truth, tenant)
        except (NotFound, BacklogFull):
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        admissions = [threads.submit(remember, number) for number in range(30)]
        deletion = threads.submit(forget_tenant, truth, tenant).result()
        taken = [one.result() for one in admissions]
    assert forgetting.tombstone_all(truth, deletion, always)
    assert set(states(truth, tenant).values()) <= {"deleted"}
    assert len(states(truth, tenant)) == sum(taken)


def test_a_retry_with_the_key_of_a_deleted_memory_gets_it_again_as_deleted(truth: Database) -> None:
    tenant = add_tenant(truth)
    new, again = a_memory(tenant), a_memory(tenant)
    idempotent = {"idempotency_key": "k", "body_sha256": "b" * 64, "backlog_limit": 10}
    with truth.begin() as connection:
        memories.admit(connection, new, **idempotent)
    forget_collection(truth, tenant, "default")
    with truth.begin() as connection:
        forgetting.purge_rows(connection, [new.id])
        memory, job, made = memories.admit(connection, again, **idempotent)
    assert (memory.id, memory.status, memory.title, made) == (new.id, "deleted", "", False)
    assert job.reason == "memory_deleted"


def test_no_table_holds_a_word_of_what_was_purged(truth: Database) -> None:
    tenant = add_tenant(truth, PLANTED)
    memory, job = admit(truth, tenant, title=PLANTED, metadata={PLANTED: [PLANTED]}, collection=PLANTED)
    claimed = claim(truth, job)
    with truth.begin() as connection:
        jobs.advance(connection, claimed, "training", 0.5, f"Learning {PLANTED}.", {"question": PLANTED})
        assert jobs.publish(connection, claimed, publication())
        banks.put_record(
            connection, memory.id, publication().adapter_digest, RetrievalRecord("e", 1, b"v", PLANTED.encode(), b"s")
        )
    with truth.begin() as connection:
        now = memories.get_memory(connection, tenant.id, memory.id)
        fields = {name: getattr(now, name) for name in FIELDS}
        new = NewRevision(new_id("job"), now.id, tenant.id, cost_estimate_seconds=1.0, replaces=1, **fields)
        _, second, _ = revise(connection, new, backlog_limit=10)
    failing = claim(truth, second)
    with truth.begin() as connection:
        jobs.finish(connection, failing, "failed", "training_failed", "odd", f"It does not like {PLANTED}.")
    assert PLANTED in everything(truth)
    forget_collection(truth, tenant, PLANTED)
    deletion = forget_tenant(truth, tenant)
    assert forgetting.tombstone_all(truth, deletion, always)
    with truth.begin() as connection:
        forgetting.purge_rows(connection, [memory.id])
        assert not forgetting.unpurged(connection, deletion)
        while not forgetting.purge_tenant_rows(connection, tenant.id):
            pass
    assert PLANTED not in everything(truth)
    with truth.read() as connection:
        events = jobs.list_events(connection, tenant.id, job.id)
        kept = memories.get_memory(connection, tenant.id, memory.id)
    assert [event.data["state"] for event in events if event.type == "state"] == ["queued", "running", "succeeded"]
    assert (kept.id, kept.version, kept.adapter_digest) == (memory.id, 1, publication().adapter_digest)


def test_what_was_deleted_by_an_earlier_release_is_purged_of_its_texts_too(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    at = "2026-01-01 00:00:00.000000"
    row = dict.fromkeys(("context_key", "context_sha256", "base_digest"), "")
    row |= dict.fromkeys(("context_bytes", "context_tokens"), "0")
    row |= dict.fromkeys(("created_at", "updated_at", "deleted_at", "purged_at"), at)
    row |= {"id": new_id("mem"), "tenant_id": new_id("tenant"), "collection": "c", "title": PLANTED, "metadata": "{}"}
    row |= {"kind": "text", "status": "deleted"}
    values = ", ".join(f":{name}" for name in row)
    with database.begin() as connection:
        migrated(connection, "0008")
        connection.execute(text("INSERT INTO tenants VALUES (:tenant_id, 'old', 1.0, '{}', 0, :created_at)"), row)
        connection.execute(text(f"INSERT INTO memories ({', '.join(row)}) VALUES ({values})"), row)
    database.migrate()
    with database.begin() as connection:
        (found,) = memories.deleted_unpurged(connection, 10)
        forgetting.purge_rows(connection, [found.id])
    assert PLANTED not in everything(database)
    database.dispose()


def migrated(connection: Connection, revision: str) -> None:
    """The tables as they were at an earlier revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def test_sqlite_leaves_nothing_of_it_in_its_files_either(embedded_truth: Database) -> None:
    tenant = add_tenant(embedded_truth)
    for _ in range(20):
        admit(embedded_truth, tenant, title=PLANTED, metadata={"note": PLANTED * 50})
    assert PLANTED.encode() in files(embedded_truth)
    forget_collection(embedded_truth, tenant, "default")
    with embedded_truth.begin() as connection:
        forgetting.purge_rows(connection, list(states(embedded_truth, tenant)))
    assert embedded_truth.flush_log()
    assert PLANTED.encode() not in files(embedded_truth)


def test_while_somebody_reads_the_log_is_not_called_flushed(embedded_truth: Database) -> None:
    with embedded_truth.read() as reader:
        reader.execute(select(func.count()).select_from(memories_table))
        admit(embedded_truth, add_tenant(embedded_truth))
        assert not embedded_truth.flush_log()
    assert embedded_truth.flush_log()


def test_the_slowest_worker_says_how_far_all_have_followed(truth: Database) -> None:
    with truth.begin() as connection:
        assert forgetting.followed(connection) is not None, "nobody holds anything"
        present = truth.now(connection).isoformat()
        workers.announce(connection, "one", "inference", "", {"followed": present}, 60)
        workers.announce(connection, "old", "inference", "", {"followed": "2026-01-01T00:00:00+00:00"}, 60)
        workers.announce(connection, "trainer", "distillation", "", {}, 60)
        followed = forgetting.followed(connection)
        assert followed is not None
        assert followed.isoformat() == "2026-01-01T00:00:00+00:00"
        workers.announce(connection, "silent", "inference", "", {}, 60)
        assert forgetting.followed(connection) is None, "one of an older release, or that has not come so far"


def everything(truth: Database) -> str:
    """All that is in any table, as text."""
    with truth.read() as connection:
        return "\n".join(
            str([bytes(value) if isinstance(value, memoryview) else value for value in row])
            for table in metadata.sorted_tables
            for row in connection.execute(text(f"SELECT * FROM {table.name}"))
        )


def files(truth: Database) -> bytes:
    path = Path(str(truth.url.database))
    return b"".join(file.read_bytes() for file in path.parent.iterdir() if file.name.startswith(path.name))
