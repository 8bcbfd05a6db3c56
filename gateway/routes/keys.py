"""API keys: a tenant manages its own, the admin any tenant's."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.truth.api_keys import issue_key, list_keys, revoke_key, rotate_key
from core.truth.audit import Actor
from core.truth.tenants import get_tenant
from gateway.auth import Admin, AdminTenant, actor_of
from gateway.bodies import read_json
from gateway.openapi import errors, takes
from gateway.routes.parameters import AfterKey, Limit, known_id
from gateway.schemas import KeyObject, KeyRotation, NewKey, NewKeyObject, Page
from gateway.services import Parts, Services
from gateway.views import key_object, page

router = APIRouter(tags=["keys"])
OF_TENANT = "/v1/tenants/{tenant_id}/keys"


@router.get("/v1/keys", responses=errors(400, 401, 403, 503))
def keys(parts: Parts, tenant: AdminTenant, after: AfterKey = None, limit: Limit = 20) -> Page[KeyObject]:
    """The tenant's keys, newest first, also those that open nothing any more; never the keys themselves."""
    return _list(parts, tenant.id, after, limit)


@router.post(
    "/v1/keys",
    status_code=201,
    response_model=NewKeyObject,
    responses=errors(400, 401, 403, 413, 503),
    openapi_extra=takes(NewKey),
)
async def issue(request: Request, parts: Parts, tenant: AdminTenant) -> NewKeyObject:
    """A new key with the scopes that are named. It is shown this once."""
    wanted, _ = await read_json(request, NewKey, parts.settings.limits.body_bytes)
    return await run_in_threadpool(_issue, parts, tenant.id, wanted, actor_of(request))


@router.post(
    "/v1/keys/{key_id}/rotate",
    status_code=201,
    response_model=NewKeyObject,
    responses=errors(400, 401, 403, 404, 409, 413, 503),
    openapi_extra=takes(KeyRotation),
)
async def rotate(key_id: str, request: Request, parts: Parts, tenant: AdminTenant) -> NewKeyObject:
    """A successor with the same name and scopes; the old key opens beside it for a time of grace.

    A 409 where the key opens nothing any more. With `{}` the grace is a day.
    """
    wanted, _ = await read_json(request, KeyRotation, parts.settings.limits.body_bytes)
    return await run_in_threadpool(_rotate, parts, tenant.id, known_id("key", key_id), wanted, actor_of(request))


@router.delete("/v1/keys/{key_id}", responses=errors(401, 403, 404, 503))
def revoke(key_id: str, request: Request, parts: Parts, tenant: AdminTenant) -> KeyObject:
    """From this answer on the key opens nothing."""
    return _revoke(parts, tenant.id, known_id("key", key_id), actor_of(request))


@router.get(OF_TENANT, dependencies=[Admin], responses=errors(400, 401, 403, 404, 503))
def keys_of_tenant(tenant_id: str, parts: Parts, after: AfterKey = None, limit: Limit = 20) -> Page[KeyObject]:
    """A tenant's keys, for the admin."""
    return _list(parts, known_id("tenant", tenant_id), after, limit)


@router.post(
    OF_TENANT,
    dependencies=[Admin],
    status_code=201,
    response_model=NewKeyObject,
    responses=errors(400, 401, 403, 404, 413, 503),
    openapi_extra=takes(NewKey),
)
async def issue_for_tenant(tenant_id: str, request: Request, parts: Parts) -> NewKeyObject:
    """A new key for a tenant, by the admin."""
    known = known_id("tenant", tenant_id)
    wanted, _ = await read_json(request, NewKey, parts.settings.limits.body_bytes)
    return await run_in_threadpool(_issue, parts, known, wanted, actor_of(request))


@router.post(
    OF_TENANT + "/{key_id}/rotate",
    dependencies=[Admin],
    status_code=201,
    response_model=NewKeyObject,
    responses=errors(400, 401, 403, 404, 409, 413, 503),
    openapi_extra=takes(KeyRotation),
)
async def rotate_for_tenant(tenant_id: str, key_id: str, request: Request, parts: Parts) -> NewKeyObject:
    """A successor of a tenant's key, by the admin."""
    known = known_id("tenant", tenant_id)
    wanted, _ = await read_json(request, KeyRotation, parts.settings.limits.body_bytes)
    return await run_in_threadpool(_rotate, parts, known, known_id("key", key_id), wanted, actor_of(request))


@router.delete(OF_TENANT + "/{key_id}", dependencies=[Admin], responses=errors(401, 403, 404, 503))
def revoke_for_tenant(tenant_id: str, key_id: str, request: Request, parts: Parts) -> KeyObject:
    """Revokes a tenant's key, by the admin."""
    return _revoke(parts, known_id("tenant", tenant_id), known_id("key", key_id), actor_of(request))


def _list(parts: Services, tenant_id: str, after: str | None, limit: int) -> Page[KeyObject]:
    with parts.database.read() as connection:
        get_tenant(connection, tenant_id)
        found = list_keys(connection, tenant_id, after=after, limit=limit + 1)
        now = parts.database.now(connection)
    return page(found, limit, lambda key: key_object(key, now))


def _issue(parts: Services, tenant_id: str, wanted: NewKey, by: Actor) -> NewKeyObject:
    with parts.database.begin() as connection:
        key, kept = issue_key(
            connection,
            tenant_id,
            name=wanted.name,
            scopes=tuple(wanted.scopes),
            lifetime_seconds=wanted.expires_in_seconds,
            by=by,
        )
        return NewKeyObject(**key_object(kept, parts.database.now(connection)).model_dump(), api_key=key)


def _rotate(parts: Services, tenant_id: str, key_id: str, wanted: KeyRotation, by: Actor) -> NewKeyObject:
    with parts.database.begin() as connection:
        key, kept = rotate_key(
            connection,
            tenant_id,
            key_id,
            grace_seconds=wanted.grace_seconds,
            lifetime_seconds=wanted.expires_in_seconds,
            by=by,
        )
        return NewKeyObject(**key_object(kept, parts.database.now(connection)).model_dump(), api_key=key)


def _revoke(parts: Services, tenant_id: str, key_id: str, by: Actor) -> KeyObject:
    with parts.database.begin() as connection:
        kept = revoke_key(connection, tenant_id, key_id, by=by)
        return key_object(kept, parts.database.now(connection))
