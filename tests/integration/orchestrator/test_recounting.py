from __future__ import annotations

from sqlalchemy import update

from core.truth import usage
from core.truth.database import Database
from core.truth.records import Usage
from core.truth.tables import tenant_usage
from orchestrator.recounting import Recounting
from tests.fixtures.truth import add_tenant, admit


def test_wrong_counts_are_mended_and_a_tenant_that_was_just_counted_waits_its_turn(truth: Database) -> None:
    right, wrong = add_tenant(truth), add_tenant(truth)
    for tenant in (right, wrong):
        admit(truth, tenant)
    forget_what_is_used(truth, wrong.id)
    duty = Recounting(truth)
    assert duty.run_once() == [wrong.id]
    forget_what_is_used(truth, wrong.id)
    assert duty.run_once() == []
    assert Recounting(truth, every_seconds=0.0).run_once() == [wrong.id]
    with truth.read() as connection:
        assert usage.usage_of(connection, wrong.id) == Usage(1, 1000)


def forget_what_is_used(truth: Database, tenant_id: str) -> None:
    with truth.begin() as connection:
        connection.execute(
            update(tenant_usage).where(tenant_usage.c.tenant_id == tenant_id).values(memories=0, bytes=0)
        )
