from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from core.truth import api_keys, audit, jobs, memories
from core.truth.database import Database
from core.truth.records import AuditRecord, Tenant
from tests.fixtures.truth import add_tenant, admit

SOMEBODY = audit.Actor("key:key_a", "req_1")


def test_a_deed_and_its_record_are_written_together_or_not_at_all(truth: Database) -> None:
    tenant = add_tenant(truth)

    def fail_after_the_deed() -> None:
        with truth.begin() as connection:
            api_keys.issue_key(connection, tenant.id, by=SOMEBODY)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail_after_the_deed()
    assert [record.action for record in _log(truth, tenant)] == ["tenant.created"]


def test_what_changes_nothing_is_not_recorded_again(truth: Database) -> None:
    tenant = add_tenant(truth)
    memory, job = admit(truth, tenant)
    for _ in range(2):
        with truth.begin() as connection:
            jobs.request_cancel(connection, tenant.id, job.id, by=SOMEBODY)
            memories.delete_memory(connection, tenant.id, memory.id, by=SOMEBODY)
    told = [(record.action, record.actor, record.request_id) for record in _log(truth, tenant)]
    assert told == [
        ("memory.deleted", "key:key_a", "req_1"),
        ("job.cancelled", "key:key_a", "req_1"),
        ("memory.remembered", "unnamed", None),
        ("tenant.created", "unnamed", None),
    ]


def test_the_database_refuses_every_change_of_the_log(truth: Database) -> None:
    tenant = add_tenant(truth)
    changes = ["UPDATE audit_log SET actor = 'somebody else'", "DELETE FROM audit_log"]
    if truth.url.get_backend_name() == "sqlite":
        columns = "tenant_id, at, 'another', action, subject_kind, subject_id, data, request_id"
        changes.append(f"INSERT OR REPLACE INTO audit_log SELECT id, {columns} FROM audit_log")
    else:
        changes.append("TRUNCATE audit_log")
    before = _log(truth, tenant)
    for change in changes:
        with pytest.raises(DBAPIError, match="append-only"), truth.begin() as connection:
            connection.execute(text(change))
        assert _log(truth, tenant) == before


def test_the_log_is_read_in_pages_by_action_and_by_subject_and_by_one_tenant_only(truth: Database) -> None:
    ours, theirs = add_tenant(truth, "ours"), add_tenant(truth, "theirs")
    ids = [admit(truth, ours)[0].id for _ in range(3)]
    admit(truth, theirs)
    with truth.read() as connection:
        first = audit.list_records(connection, ours.id, limit=2)
        rest = audit.list_records(connection, ours.id, after=first[-1].id)
        made = audit.list_records(connection, ours.id, action="tenant.created")
        of_one = audit.list_records(connection, ours.id, subject_id=ids[1])
    assert [record.subject_id for record in first + rest] == [*ids[::-1], ours.id]
    assert {record.tenant_id for record in first + rest} == {ours.id}
    assert [record.subject_id for record in made] == [ours.id]
    assert [record.subject_kind for record in of_one] == ["memory"]


@pytest.mark.parametrize(
    ("subject", "data"),
    [
        ("my diary", {}),
        ("mem_1", {"title": "what he said"}),
        ("mem_1", {"what he said": 1}),
        ("mem_1", {"titles": ["a b"]}),
        ("mem_1", {"deep": {"deeper": "a/b"}}),
        ("mem_1", {"raw": b"bytes"}),
    ],
)
def test_a_record_takes_no_text(truth: Database, subject: str, data: dict[str, object]) -> None:
    tenant = add_tenant(truth)
    with pytest.raises(ValueError, match="nothing that a tenant wrote"), truth.begin() as connection:
        audit.record(connection, tenant.id, SOMEBODY, "memory.deleted", ("memory", subject), data)


def test_a_collection_is_named_by_its_fingerprint(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        subject = audit.fingerprint("my diary")
        audit.record(connection, tenant.id, SOMEBODY, "collection.deleted", ("collection", subject), {"memories": 3})
        (found,) = audit.list_records(connection, tenant.id, subject_id=audit.fingerprint("my diary"))
    assert "diary" not in str(found)
    assert found.data == {"memories": 3}


def _log(truth: Database, tenant: Tenant) -> list[AuditRecord]:
    with truth.read() as connection:
        return audit.list_records(connection, tenant.id)
