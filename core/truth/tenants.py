"""Tenants and their API keys. Of a key only its SHA-256 is kept."""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
from collections.abc import Mapping
from typing import Any, get_args

from sqlalchemy import Connection, insert, select, update

from core.errors import InvalidRequest, NotFound
from core.ids import new_id
from core.truth.audit import UNNAMED, Actor, record
from core.truth.clock import now
from core.truth.records import Fallback, Tenant
from core.truth.tables import api_keys, fair_shares, tenants


def create_tenant(
    connection: Connection,
    name: str,
    weight: float = 1.0,
    settings: dict[str, Any] | None = None,
    by: Actor = UNNAMED,
) -> Tenant:
    """A tenant with an empty bank. `settings` are as those of `configure`.

    Raises `InvalidRequest` on an empty name, a weight that is not above zero or settings that can't be.
    """
    if not name.strip():
        raise InvalidRequest("A tenant needs a name.", param="name")
    if not (math.isfinite(weight) and weight > 0):
        raise InvalidRequest("A tenant's weight is a number above zero.", param="weight")
    _check_settings(settings or {})
    tenant_id = new_id("tenant")
    connection.execute(
        insert(tenants).values(
            id=tenant_id, name=name, weight=weight, settings=settings or {}, bank_revision=0, created_at=now()
        )
    )
    connection.execute(insert(fair_shares).values(tenant_id=tenant_id, deficit_seconds=0.0, turn=0, updated_at=now()))
    record(connection, tenant_id, by, "tenant.created", ("tenant", tenant_id))
    return get_tenant(connection, tenant_id)


def get_tenant(connection: Connection, tenant_id: str) -> Tenant:
    row = connection.execute(select(tenants).where(tenants.c.id == tenant_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no tenant '{tenant_id}'.")
    return Tenant(**row._mapping)


def list_tenants(connection: Connection) -> list[Tenant]:
    """All tenants, oldest first."""
    rows = connection.execute(select(tenants).order_by(tenants.c.created_at, tenants.c.id))
    return [Tenant(**row._mapping) for row in rows]


def configure(connection: Connection, tenant_id: str, changes: Mapping[str, Any], by: Actor = UNNAMED) -> Tenant:
    """Sets `false_activation`, the rate that the tenant's gate keeps (`None`: the workers' default), or `fallback`,
    whether memories may serve from their text (`none` or `text`); what is not in `changes` stays.

    The bank's revision grows with it, so that every worker hears of it at the next question. Raises `NotFound`, and
    `InvalidRequest` where a value can't be.
    """
    connection.execute(select(tenants.c.id).where(tenants.c.id == tenant_id).with_for_update())
    settings = {**get_tenant(connection, tenant_id).settings, **changes}
    _check_settings(settings)
    connection.execute(
        update(tenants)
        .where(tenants.c.id == tenant_id)
        .values(settings=settings, bank_revision=tenants.c.bank_revision + 1)
    )
    record(connection, tenant_id, by, "tenant.changed", ("tenant", tenant_id), changes)
    return get_tenant(connection, tenant_id)


def issue_key(connection: Connection, tenant_id: str, by: Actor = UNNAMED) -> str:
    """A new key of the tenant; the caller sees it once, nobody can read it again."""
    get_tenant(connection, tenant_id)
    key = f"lb_{secrets.token_urlsafe(32)}"
    connection.execute(insert(api_keys).values(key_sha256=_sha256(key), tenant_id=tenant_id, created_at=now()))
    record(connection, tenant_id, by, "key.issued", ("key", key_id(key)))
    return key


def key_id(key: str) -> str:
    """What a key is called where it is not shown: half of its SHA-256, which helps nobody to 256 random bits."""
    half = bytes.fromhex(_sha256(key))[:16]
    return f"key_{base64.b32encode(half).decode().rstrip('=').lower()}"


def tenant_of_key(connection: Connection, key: str) -> Tenant | None:
    """Whose key it is; `None` for one that was never issued or is revoked."""
    query = (
        select(tenants)
        .join(api_keys, api_keys.c.tenant_id == tenants.c.id)
        .where(api_keys.c.key_sha256 == _sha256(key), api_keys.c.revoked_at.is_(None))
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Tenant(**row._mapping)


def revoke_key(connection: Connection, key: str) -> None:
    """From now on the key opens nothing; of an unknown key nothing happens."""
    connection.execute(
        update(api_keys)
        .where(api_keys.c.key_sha256 == _sha256(key), api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now())
    )


def _check_settings(settings: dict[str, Any]) -> None:
    rate = settings.get("false_activation")
    if rate is not None and not 0 < rate < 1:
        raise InvalidRequest("A rate of false activation is above 0 and below 1.", param="false_activation")
    if settings.get("fallback", "none") not in get_args(Fallback):
        raise InvalidRequest("A tenant's fallback is 'none' or 'text'.", param="fallback")


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
