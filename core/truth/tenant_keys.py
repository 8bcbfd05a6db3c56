"""The tenants' data keys, wrapped by a master key; a destroyed one keeps its row, without the wrapped key."""

from __future__ import annotations

from sqlalchemy import Connection, Row, Select, insert, select, update

from core.truth.clock import now
from core.truth.records import TenantKey
from core.truth.tables import tenant_keys
from core.truth.usage import lock_tenant

_LIVE = tenant_keys.c.destroyed_at.is_(None)
_NEWEST_FIRST = (tenant_keys.c.created_at.desc(), tenant_keys.c.id.desc())


def current(connection: Connection, tenant_id: str) -> TenantKey | None:
    """The key that seals what is new; `None` before the tenant's first object and after its deletion."""
    query = select(tenant_keys).where(tenant_keys.c.tenant_id == tenant_id, _LIVE).order_by(*_NEWEST_FIRST).limit(1)
    return _key_of(connection.execute(query).one_or_none())


def find(connection: Connection, tenant_id: str, key_id: str) -> TenantKey | None:
    """The tenant's key with that id; `None` where it is destroyed, another tenant's, or was never here."""
    query = select(tenant_keys).where(tenant_keys.c.id == key_id, tenant_keys.c.tenant_id == tenant_id, _LIVE)
    return _key_of(connection.execute(query).one_or_none())


def add_first(connection: Connection, key: TenantKey) -> TenantKey:
    """`key`, or the one that another process added meanwhile. Raises `NotFound` for a tenant that is gone."""
    lock_tenant(connection, key.tenant_id)
    there = current(connection, key.tenant_id)
    if there is not None:
        return there
    connection.execute(
        insert(tenant_keys).values(
            id=key.id, tenant_id=key.tenant_id, master_id=key.master_id, wrapped=key.wrapped, created_at=now()
        )
    )
    return key


def destroy(connection: Connection, tenant_id: str) -> int:
    """Nothing that the tenant's keys sealed can be read from here on; returns how many there were."""
    gone = update(tenant_keys).where(tenant_keys.c.tenant_id == tenant_id, _LIVE)
    return connection.execute(gone.values(wrapped=b"", destroyed_at=now())).rowcount


def masters_in_use(connection: Connection) -> set[str]:
    """Ids of the master keys without which some tenant's key can't be unwrapped."""
    return set(connection.execute(select(tenant_keys.c.master_id).where(_LIVE).distinct()).scalars())


def wrapped_by_others(connection: Connection, master_id: str, after: str, limit: int) -> list[TenantKey]:
    """Keys that another master key than `master_id` wraps, by their ids after `after`."""
    query: Select[tuple[object, ...]] = (
        select(tenant_keys)
        .where(tenant_keys.c.master_id != master_id, tenant_keys.c.id > after, _LIVE)
        .order_by(tenant_keys.c.id)
        .limit(limit)
    )
    return [key for row in connection.execute(query) if (key := _key_of(row)) is not None]


def rewrap(connection: Connection, before: TenantKey, master_id: str, wrapped: bytes) -> bool:
    """Puts the key under another master key; False where it was destroyed or rewrapped meanwhile."""
    same = (tenant_keys.c.id == before.id) & (tenant_keys.c.master_id == before.master_id)
    changed = update(tenant_keys).where(same, _LIVE).values(master_id=master_id, wrapped=wrapped)
    return connection.execute(changed).rowcount == 1


def _key_of(row: Row[tuple[object, ...]] | None) -> TenantKey | None:
    if row is None:
        return None
    fields = row._mapping
    return TenantKey(fields["id"], fields["tenant_id"], fields["master_id"], bytes(fields["wrapped"]))
