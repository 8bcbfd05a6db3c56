"""Tenants, for the admin."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.errors import InvalidRequest
from core.truth.api_keys import issue_key
from core.truth.audit import Actor
from core.truth.tenants import configure, create_tenant, list_tenants
from gateway.auth import Admin, actor_of
from gateway.bodies import read_json
from gateway.openapi import errors, takes
from gateway.routes.parameters import AfterTenant, Limit, known_id
from gateway.schemas import NewTenant, NewTenantObject, Page, TenantChange, TenantObject
from gateway.services import Parts, Services
from gateway.views import page, tenant_object

router = APIRouter(tags=["tenants"], dependencies=[Admin])


@router.post(
    "/v1/tenants",
    status_code=201,
    response_model=NewTenantObject,
    responses=errors(400, 401, 403, 413, 503),
    openapi_extra=takes(NewTenant),
)
async def create(request: Request, parts: Parts) -> NewTenantObject:
    """A new tenant with an empty bank. Its key is shown this once."""
    wanted, _ = await read_json(request, NewTenant, parts.settings.limits.body_bytes)
    return await run_in_threadpool(_create, parts, wanted, actor_of(request))


@router.patch(
    "/v1/tenants/{tenant_id}",
    response_model=TenantObject,
    responses=errors(400, 401, 403, 404, 413, 503),
    openapi_extra=takes(TenantChange),
)
async def change(tenant_id: str, request: Request, parts: Parts) -> TenantObject:
    """Changes the tenant's settings; inference workers follow at the tenant's next question."""
    wanted, _ = await read_json(request, TenantChange, parts.settings.limits.body_bytes)
    return await run_in_threadpool(_change, parts, known_id("tenant", tenant_id), wanted, actor_of(request))


@router.get("/v1/tenants", responses=errors(400, 401, 403, 503))
def tenants(parts: Parts, after: AfterTenant = None, limit: Limit = 20) -> Page[TenantObject]:
    """All tenants, oldest first."""
    with parts.database.read() as connection:
        everyone = list_tenants(connection)
    ids = [tenant.id for tenant in everyone]
    if after is not None and after not in ids:
        raise InvalidRequest("There is no such tenant to list after.", param="after")
    start = 0 if after is None else ids.index(after) + 1
    return page(everyone[start : start + limit + 1], limit, tenant_object)


def _create(parts: Services, wanted: NewTenant, by: Actor) -> NewTenantObject:
    with parts.database.begin() as connection:
        settings = wanted.model_dump(include={"false_activation", "fallback"})
        tenant = create_tenant(connection, wanted.name, wanted.weight, settings, by=by)
        key, kept = issue_key(connection, tenant.id, by=by)
    return NewTenantObject(**tenant_object(tenant).model_dump(), api_key=key, api_key_id=kept.id)


def _change(parts: Services, tenant_id: str, wanted: TenantChange, by: Actor) -> TenantObject:
    with parts.database.begin() as connection:
        return tenant_object(configure(connection, tenant_id, wanted.model_dump(exclude_unset=True), by=by))
