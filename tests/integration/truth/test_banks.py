from __future__ import annotations

from dataclasses import replace

import pytest

from core.errors import NotFound
from core.truth import banks, jobs, memories
from core.truth.database import Database
from core.truth.records import Publication, RetrievalRecord
from tests.fixtures.truth import add_tenant, admit, claim, publication

RECORD = RetrievalRecord("words", 2, b"aabbcc", b"terms", b"samples")


def publish(truth: Database, tenant: object, record: RetrievalRecord | None = RECORD) -> str:
    memory, job = admit(truth, tenant)  # type: ignore[arg-type]
    held = claim(truth, job)
    made: Publication = replace(publication(), retrieval=record)
    with truth.begin() as connection:
        assert jobs.publish(connection, held, made)
    return memory.id


def test_a_stream_gives_each_served_memory_with_as_many_vectors_as_wanted(truth: Database) -> None:
    tenant = add_tenant(truth)
    new, old = publish(truth, tenant), publish(truth, tenant, None)
    admit(truth, tenant)
    with truth.read() as connection:
        found = {one.entry.memory_id: one.record for one in banks.stream(connection, tenant.id, 2)}
        assert banks.served(connection, tenant.id) == 2
        assert banks.samples(connection, [new, old]) == {new: b"samples"}
    assert found == {new: RetrievalRecord("words", 2, b"aabb", b"terms", b""), old: None}


def test_changes_name_what_came_and_went_since_a_revision_and_nothing_else(truth: Database) -> None:
    tenant = add_tenant(truth)
    kept = publish(truth, tenant)
    with truth.read() as connection:
        before = banks.bank_revision(connection, tenant.id)
    came, went = publish(truth, tenant), publish(truth, tenant)
    with truth.begin() as connection:
        memories.delete_memory(connection, tenant.id, went)
    with truth.read() as connection:
        since = banks.changes(connection, tenant.id, before, 32)
        everything = banks.changes(connection, tenant.id, 0, 32)
        assert banks.changes(connection, tenant.id, since.revision, 32).served == ()
        assert banks.samples(connection, [went]) == {}
    assert ([one.entry.memory_id for one in since.served], since.gone) == ([came], (went,))
    assert [one.entry.memory_id for one in everything.served] == [kept, came]


def test_a_record_is_filled_in_only_for_the_version_that_is_served(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory_id = publish(truth, tenant, None)
    digest = publication().adapter_digest
    with truth.begin() as connection:
        banks.backfill_record(connection, memory_id, "sha256:another", RECORD)
        assert banks.samples(connection, [memory_id]) == {}
        banks.backfill_record(connection, memory_id, digest, RECORD)
        assert banks.samples(connection, [memory_id]) == {memory_id: b"samples"}
        memories.delete_memory(connection, tenant.id, memory_id)
        banks.backfill_record(connection, memory_id, digest, RECORD)
        assert banks.samples(connection, [memory_id]) == {}


def test_an_unknown_tenant_has_no_changes(truth: Database) -> None:
    with truth.read() as connection, pytest.raises(NotFound):
        banks.changes(connection, "tenant_unknown", 0, 4)
