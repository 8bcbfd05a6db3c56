"""A tenant's API keys: issued, narrowed by scopes, rotated, revoked.

Of a key only its SHA-256 is kept, and it is found by that. This needs no look-up in constant time: how long the
database takes tells at most of the digest that was looked for, and who sends keys can't choose their digests. What was
found is compared in constant time all the same. A key's id is half of its digest, so that no column holds it and a
process of an earlier version, which knows of no ids, issues keys that have one.

A rotated key is one whose `revoked_at` lies ahead.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, insert, select, tuple_, update

from core.credentials import key_id, key_sha256, sha256_prefix
from core.errors import Conflict, InvalidRequest, NotFound, Unauthenticated
from core.truth.audit import UNNAMED, Actor, record
from core.truth.clock import from_now, now
from core.truth.records import ApiKey, Tenant
from core.truth.tables import api_keys, tenants
from core.truth.tenants import get_tenant

Scope = Literal["ingest", "query", "read", "admin"]
"""`ingest` takes contexts in, `query` asks, `read` looks at memories and jobs, `admin` deletes and manages keys."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
USE_NOTED_SECONDS = 3600.0
"""How coarse `last_used_at` is, so that a key's use costs a write an hour and not one a request."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Whose key it is. `use_is_news`: nothing says yet that it is in use these days."""

    tenant: Tenant
    key: ApiKey
    use_is_news: bool


def issue_key(
    connection: Connection,
    tenant_id: str,
    *,
    name: str = "",
    scopes: tuple[Scope, ...] = SCOPES,
    lifetime_seconds: float | None = None,
    by: Actor = UNNAMED,
) -> tuple[str, ApiKey]:
    """A new key of the tenant, and what is kept of it; the caller sees it once, nobody can read it again.

    Raises `NotFound` without the tenant.
    """
    get_tenant(connection, tenant_id)
    key, made = _insert(connection, tenant_id, name, scopes, lifetime_seconds)
    record(connection, tenant_id, by, "key.issued", ("key", made.id), {"scopes": list(made.scopes)})
    return key, made


def open_key(connection: Connection, key: str) -> Opened:
    """Raises `Unauthenticated` for a key that was never issued, is expired or is revoked."""
    sha256 = key_sha256(key)
    query = (
        select(tenants, *(api_keys.c[name].label(f"key_{name}") for name in _COLUMNS), now().label("now"))
        .join(api_keys, api_keys.c.tenant_id == tenants.c.id)
        .where(api_keys.c.key_sha256 == sha256)
    )
    row = connection.execute(query).one_or_none()
    if row is None or not hmac.compare_digest(row.key_key_sha256, sha256):
        raise Unauthenticated
    found = _key({name: row._mapping[f"key_{name}"] for name in _COLUMNS})
    if found.revoked_at is not None and found.revoked_at <= row.now:
        raise Unauthenticated("This API key is revoked; ask for another one.")
    if found.expires_at is not None and found.expires_at <= row.now:
        raise Unauthenticated("This API key has expired; ask for another one.")
    used = found.last_used_at
    news = used is None or (row.now - used).total_seconds() >= USE_NOTED_SECONDS
    return Opened(Tenant(**{name: row._mapping[name] for name in Tenant.__slots__}), found, news)


def note_use(connection: Connection, key: ApiKey) -> None:
    """The key is in use now; many processes that say so at once write once."""
    used = api_keys.c.last_used_at
    connection.execute(
        update(api_keys)
        .where(_of_id(key.id), used.is_(None) | (used <= from_now(-USE_NOTED_SECONDS)))
        .values(last_used_at=now())
    )


def list_keys(connection: Connection, tenant_id: str, *, after: str | None = None, limit: int = 20) -> list[ApiKey]:
    """The tenant's keys, newest first, also those that open nothing now; `after` is the id of the last one seen."""
    query = select(api_keys).where(api_keys.c.tenant_id == tenant_id)
    if after is not None:
        last = connection.execute(query.where(_of_id(after))).one_or_none()
        if last is None:
            raise InvalidRequest(f"There is no key '{after}' to list after.", param="after")
        query = query.where(
            tuple_(api_keys.c.created_at, api_keys.c.key_sha256) < tuple_(last.created_at, last.key_sha256)
        )
    rows = connection.execute(query.order_by(api_keys.c.created_at.desc(), api_keys.c.key_sha256.desc()).limit(limit))
    return [_key(row._mapping) for row in rows]


def rotate_key(
    connection: Connection,
    tenant_id: str,
    id_: str,
    *,
    grace_seconds: float,
    lifetime_seconds: float | None = None,
    by: Actor = UNNAMED,
) -> tuple[str, ApiKey]:
    """A successor with the same name and scopes; the old key opens for `grace_seconds` more, and not a moment if 0.

    The successor lives as long as its predecessor was to, or `lifetime_seconds`. Where the answer was lost it may be
    asked for again: the successor that nobody knows is revoked by its id. Raises `NotFound`, and `Conflict` where the
    key opens nothing any more.
    """
    old = _locked(connection, tenant_id, id_)
    if not _opens(connection, old):
        raise Conflict("This key is expired or revoked; issue a new one.")
    if lifetime_seconds is None and old.expires_at is not None:
        lifetime_seconds = (old.expires_at - old.created_at).total_seconds()
    key, made = _insert(connection, tenant_id, old.name, old.scopes, lifetime_seconds)
    _end(connection, old, grace_seconds)
    told = {"successor": made.id, "grace_seconds": grace_seconds}
    record(connection, tenant_id, by, "key.rotated", ("key", old.id), told)
    return key, made


def revoke_key(connection: Connection, tenant_id: str, id_: str, by: Actor = UNNAMED) -> ApiKey:
    """From now on the key opens nothing; a second time changes nothing. Raises `NotFound`."""
    old = _locked(connection, tenant_id, id_)
    if old.revoked_at is None or old.revoked_at > connection.execute(select(now())).scalar_one():
        _end(connection, old, 0.0)
        record(connection, tenant_id, by, "key.revoked", ("key", old.id))
    return _locked(connection, tenant_id, id_)


_COLUMNS = ("key_sha256", "tenant_id", "name", "scopes", "created_at", "last_used_at", "expires_at", "revoked_at")


def _insert(
    connection: Connection, tenant_id: str, name: str, scopes: tuple[str, ...], lifetime_seconds: float | None
) -> tuple[str, ApiKey]:
    key = f"lb_{secrets.token_urlsafe(32)}"
    row = connection.execute(
        insert(api_keys)
        .values(
            key_sha256=key_sha256(key),
            tenant_id=tenant_id,
            name=name,
            scopes=[scope for scope in SCOPES if scope in scopes],
            created_at=now(),
            expires_at=None if lifetime_seconds is None else from_now(lifetime_seconds),
        )
        .returning(*api_keys.c)
    ).one()
    return key, _key(row._mapping)


def _locked(connection: Connection, tenant_id: str, id_: str) -> ApiKey:
    query = select(api_keys).where(_of_id(id_), api_keys.c.tenant_id == tenant_id)
    row = connection.execute(query.with_for_update()).one_or_none()
    if row is None:
        raise NotFound(f"There is no key '{id_}'.")
    return _key(row._mapping)


def _end(connection: Connection, key: ApiKey, grace_seconds: float) -> None:
    """A key never lives longer by being ended again."""
    ends = from_now(grace_seconds) if grace_seconds > 0 else now()
    later = api_keys.c.revoked_at.is_(None) | (api_keys.c.revoked_at > ends)
    connection.execute(update(api_keys).where(_of_id(key.id), later).values(revoked_at=ends))


def _opens(connection: Connection, key: ApiKey) -> bool:
    at = connection.execute(select(now())).scalar_one()
    return all(end is None or end > at for end in (key.revoked_at, key.expires_at))


def _of_id(id_: str) -> ColumnElement[bool]:
    """A range of the primary key, which is how an index finds what begins so."""
    prefix = sha256_prefix(id_)
    return api_keys.c.key_sha256.between(prefix, prefix + "g")


def _key(fields: Any) -> ApiKey:
    """A row from before there were scopes has them all."""
    return ApiKey(
        id=key_id(fields["key_sha256"]),
        tenant_id=fields["tenant_id"],
        name=fields["name"] or "",
        scopes=SCOPES if fields["scopes"] is None else tuple(fields["scopes"]),
        created_at=fields["created_at"],
        last_used_at=fields["last_used_at"],
        expires_at=fields["expires_at"],
        revoked_at=fields["revoked_at"],
    )
