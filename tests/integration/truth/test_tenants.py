from __future__ import annotations

import pytest
from sqlalchemy import update

from core.errors import InvalidRequest, NotFound
from core.truth import tenants
from core.truth.audit import Actor, list_records
from core.truth.database import Database
from core.truth.tables import tenants as tenants_table
from tests.fixtures.truth import add_tenant

NO_WEIGHTS = (0.0, -1.0, 1e-9, 1000.1, float("nan"), float("inf"))


def test_a_weight_must_be_within_its_bounds_and_a_name_not_empty(truth: Database) -> None:
    with truth.begin() as connection:
        for weight in NO_WEIGHTS:
            with pytest.raises(InvalidRequest):
                tenants.create_tenant(connection, "t", weight)
        with pytest.raises(InvalidRequest):
            tenants.create_tenant(connection, "  ")
        with pytest.raises(NotFound):
            tenants.get_tenant(connection, "tenant_unknown")
        assert tenants.list_tenants(connection) == []


def test_a_promised_rate_is_kept_until_it_is_taken_back_and_workers_hear_of_it(truth: Database) -> None:
    tenant = add_tenant(truth)
    assert tenant.false_activation is None
    with truth.begin() as connection:
        changed = tenants.configure(connection, tenant.id, {"false_activation": 0.01})
        assert (changed.false_activation, changed.bank_revision) == (0.01, tenant.bank_revision + 1)
        assert tenants.get_tenant(connection, tenant.id) == changed
        assert tenants.configure(connection, tenant.id, {"false_activation": None}).false_activation is None
        strict = tenants.create_tenant(connection, "strict", settings={"false_activation": 0.02})
        assert strict.false_activation == 0.02


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_that_nothing_can_keep_is_refused(truth: Database, rate: float) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        with pytest.raises(InvalidRequest):
            tenants.configure(connection, tenant.id, {"false_activation": rate})
        with pytest.raises(InvalidRequest):
            tenants.create_tenant(connection, "t", settings={"false_activation": rate})
        with pytest.raises(NotFound):
            tenants.configure(connection, "tenant_unknown", {"false_activation": 0.1})


def test_texts_may_serve_only_where_the_tenant_was_told_so_and_workers_hear_of_it(truth: Database) -> None:
    tenant = add_tenant(truth)
    assert tenant.fallback == "none"
    with truth.begin() as connection:
        tenants.configure(connection, tenant.id, {"false_activation": 0.01})
        changed = tenants.configure(connection, tenant.id, {"fallback": "text"})
        assert (changed.fallback, changed.false_activation) == ("text", 0.01)
        assert changed.bank_revision == tenant.bank_revision + 2
        assert tenants.configure(connection, tenant.id, {"fallback": "none"}).fallback == "none"
        assert tenants.create_tenant(connection, "t", settings={"fallback": "text"}).fallback == "text"
        for wrong in ("always", None, True):
            with pytest.raises(InvalidRequest):
                tenants.configure(connection, tenant.id, {"fallback": wrong})


def test_a_weight_is_changed_alone_and_recorded_and_what_can_not_be_changes_nothing(truth: Database) -> None:
    tenant = add_tenant(truth, weight=2.0)
    with truth.begin() as connection:
        tenants.configure(connection, tenant.id, {"fallback": "text"})
        changed = tenants.configure(connection, tenant.id, {"weight": 0.5}, Actor("admin"))
        assert (changed.weight, changed.settings) == (0.5, {"fallback": "text"})
        for wrong in NO_WEIGHTS:
            with pytest.raises(InvalidRequest):
                tenants.configure(connection, tenant.id, {"weight": wrong, "fallback": "none"})
        assert tenants.get_tenant(connection, tenant.id) == changed
        assert tenants.configure(connection, tenant.id, {"fallback": "none"}).weight == 0.5
        deeds = list_records(connection, tenant.id, action="tenant.changed")
    assert [(deed.actor, deed.data) for deed in deeds] == [
        ("unnamed", {"fallback": "none"}),
        ("admin", {"weight": 0.5}),
        ("unnamed", {"fallback": "text"}),
    ]


def test_a_tenant_whose_weight_is_from_before_the_bounds_can_be_changed_otherwise(truth: Database) -> None:
    tenant = add_tenant(truth)
    with truth.begin() as connection:
        connection.execute(update(tenants_table).where(tenants_table.c.id == tenant.id).values(weight=1e-6))
        changed = tenants.configure(connection, tenant.id, {"fallback": "text"})
    assert (changed.weight, changed.fallback) == (1e-6, "text")
