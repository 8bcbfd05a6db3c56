"""Tenants and their settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, get_args

from sqlalchemy import Connection, insert, select, update

from core.errors import InvalidRequest, NotFound
from core.ids import new_id
from core.truth.audit import UNNAMED, Actor, record
from core.truth.clock import now
from core.truth.records import Fallback, Quotas, Tenant
from core.truth.tables import fair_shares, tenants
from core.truth.usage import open_usage

QUOTA_AT_MOST = 2**53
WEIGHT_AT_LEAST = 0.001
WEIGHT_AT_MOST = 1000.0
"""Between them the shares of any two tenants stay numbers that a float can tell apart."""


def create_tenant(
    connection: Connection,
    name: str,
    weight: float = 1.0,
    settings: dict[str, Any] | None = None,
    by: Actor = UNNAMED,
) -> Tenant:
    """A tenant with an empty bank. `settings` are as those of `configure`.

    Raises `InvalidRequest` on an empty name, or a weight or settings that can't be.
    """
    if not name.strip():
        raise InvalidRequest("A tenant needs a name.", param="name")
    _check_weight(weight)
    _check_settings(settings or {})
    tenant_id = new_id("tenant")
    connection.execute(
        insert(tenants).values(
            id=tenant_id, name=name, weight=weight, settings=settings or {}, bank_revision=0, created_at=now()
        )
    )
    connection.execute(insert(fair_shares).values(tenant_id=tenant_id, deficit_seconds=0.0, turn=0, updated_at=now()))
    open_usage(connection, tenant_id)
    record(connection, tenant_id, by, "tenant.created", ("tenant", tenant_id))
    return get_tenant(connection, tenant_id)


def get_tenant(connection: Connection, tenant_id: str) -> Tenant:
    """Raises `NotFound`, for a deleted one too."""
    there = (tenants.c.id == tenant_id) & tenants.c.deleted_at.is_(None)
    row = connection.execute(select(tenants).where(there)).one_or_none()
    if row is None:
        raise NotFound(f"There is no tenant '{tenant_id}'.")
    return Tenant(**row._mapping)


def list_tenants(connection: Connection) -> list[Tenant]:
    """All tenants but the deleted ones, oldest first."""
    there = select(tenants).where(tenants.c.deleted_at.is_(None))
    rows = connection.execute(there.order_by(tenants.c.created_at, tenants.c.id))
    return [Tenant(**row._mapping) for row in rows]


def configure(connection: Connection, tenant_id: str, changes: Mapping[str, Any], by: Actor = UNNAMED) -> Tenant:
    """Sets `weight`, the share of the devices that the next dispatch goes by, `false_activation`, the rate that the
    tenant's gate keeps (`None`: the workers' default), `fallback`, whether memories may serve from their text (`none`
    or `text`), or some of `quotas`, by the names of `Quotas` (`None`: the processes' default); what is not in `changes`
    stays.

    The bank's revision grows with it, so that every worker hears of it at the next question. Raises `NotFound`, and
    `InvalidRequest` where a value can't be.
    """
    connection.execute(select(tenants.c.id).where(tenants.c.id == tenant_id).with_for_update())
    before = get_tenant(connection, tenant_id)
    weight = changes.get("weight", before.weight)
    settings = {**before.settings, **{name: value for name, value in changes.items() if name != "weight"}}
    if "quotas" in changes:
        settings["quotas"] = {**asdict(before.quotas), **(changes["quotas"] or {})}
    if "weight" in changes:
        _check_weight(weight)
    _check_settings(settings)
    connection.execute(
        update(tenants)
        .where(tenants.c.id == tenant_id)
        .values(weight=weight, settings=settings, bank_revision=tenants.c.bank_revision + 1)
    )
    record(connection, tenant_id, by, "tenant.changed", ("tenant", tenant_id), changes)
    return get_tenant(connection, tenant_id)


def living(connection: Connection, tenant_ids: Collection[str]) -> set[str]:
    """Those of `tenant_ids` that are there and not deleted."""
    there = tenants.c.id.in_(sorted(tenant_ids)) & tenants.c.deleted_at.is_(None)
    return set(connection.execute(select(tenants.c.id).where(there)).scalars())


def _check_weight(weight: float) -> None:
    if not WEIGHT_AT_LEAST <= weight <= WEIGHT_AT_MOST:
        told = f"A tenant's weight is a number from {WEIGHT_AT_LEAST:g} to {WEIGHT_AT_MOST:g}."
        raise InvalidRequest(told, param="weight")


def _check_settings(settings: dict[str, Any]) -> None:
    rate = settings.get("false_activation")
    if rate is not None and not 0 < rate < 1:
        raise InvalidRequest("A rate of false activation is above 0 and below 1.", param="false_activation")
    if settings.get("fallback", "none") not in get_args(Fallback):
        raise InvalidRequest("A tenant's fallback is 'none' or 'text'.", param="fallback")
    for name, most in (settings.get("quotas") or {}).items():
        least = 1 if name in ("jobs_in_flight", "requests_per_minute") else 0
        if name not in Quotas.__slots__ or (most is not None and not least <= most <= QUOTA_AT_MOST):
            raise InvalidRequest(f"A quota of {name} is a whole number from {least} on.", param=f"quotas.{name}")
