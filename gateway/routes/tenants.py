"""Tenants, for the admin."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.errors import InvalidRequest
from core.http.bodies import read_json
from core.truth.api_keys import issue_key
from core.truth.audit import Actor
from core.truth.deletions import of_tenant
from core.truth.forgetting import delete_tenant
from core.truth.tenants import configure, create_tenant, get_tenant, list_tenants
from gateway.auth import Admin, actor_of
from gateway.openapi import errors, takes
from gateway.routes.parameters import AfterTenant, Limit, known_id
from gateway.routes.usage import usage_with_limits
from gateway.schemas import (
    DeletionObject,
    NewTenant,
    NewTenantObject,
    Page,
    TenantChange,
    TenantDetails,
    TenantObject,
)
from gateway.services import Parts, Services
from gateway.views import deletion_object, page, tenant_object

router = APIRouter(tags=["tenants"], dependencies=[Admin])


@router.post(
    "/v1/tenants",
    status_code=201,
    response_model=NewTenantObject,
    responses=errors(400, 401, 403, 408, 413, 503),
    openapi_extra=takes(NewTenant),
)
async def create(request: Request, parts: Parts) -> NewTenantObject:
    """A new tenant with an empty bank. Its key is shown this once."""
    wanted, _ = await read_json(request, NewTenant, parts.settings.limits)
    return await run_in_threadpool(_create, parts, wanted, actor_of(request))


@router.patch(
    "/v1/tenants/{tenant_id}",
    response_model=TenantObject,
    responses=errors(400, 401, 403, 404, 408, 413, 503),
    openapi_extra=takes(TenantChange),
)
async def change(tenant_id: str, request: Request, parts: Parts) -> TenantObject:
    """Changes the tenant's settings; inference workers follow at the tenant's next question; quotas hold at once, and
    the weight at the next dispatch."""
    wanted, _ = await read_json(request, TenantChange, parts.settings.limits)
    return await run_in_threadpool(_change, parts, known_id("tenant", tenant_id), wanted, actor_of(request))


@router.get("/v1/tenants/{tenant_id}", responses=errors(401, 403, 404, 503))
def tenant(tenant_id: str, parts: Parts) -> TenantDetails:
    """One tenant, with its own quotas, what it uses and the limits that hold for it."""
    with parts.database.read() as connection:
        found = get_tenant(connection, known_id("tenant", tenant_id))
        usage = usage_with_limits(connection, parts.settings, found)
    return TenantDetails(**tenant_object(found).model_dump(), usage=usage)


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


@router.delete("/v1/tenants/{tenant_id}", responses=errors(401, 403, 404, 503))
def delete(tenant_id: str, request: Request, parts: Parts) -> DeletionObject:
    """From this answer on none of the tenant's keys opens anything; its data keys are destroyed, so that nothing of it
    can be read from the object store again. A second time gives the same deletion."""
    with parts.database.begin() as connection:
        return deletion_object(delete_tenant(connection, known_id("tenant", tenant_id), actor_of(request)))


@router.get("/v1/tenants/{tenant_id}/deletion", responses=errors(401, 403, 404, 503))
def deletion(tenant_id: str, parts: Parts) -> DeletionObject:
    """How far a deleted tenant is forgotten."""
    with parts.database.read() as connection:
        return deletion_object(of_tenant(connection, known_id("tenant", tenant_id)))


def _create(parts: Services, wanted: NewTenant, by: Actor) -> NewTenantObject:
    with parts.database.begin() as connection:
        settings = wanted.model_dump(include={"false_activation", "fallback", "quotas"})
        tenant = create_tenant(connection, wanted.name, wanted.weight, settings, by=by)
        key, kept = issue_key(connection, tenant.id, by=by)
    return NewTenantObject(**tenant_object(tenant).model_dump(), api_key=key, api_key_id=kept.id)


def _change(parts: Services, tenant_id: str, wanted: TenantChange, by: Actor) -> TenantObject:
    with parts.database.begin() as connection:
        return tenant_object(configure(connection, tenant_id, wanted.model_dump(exclude_unset=True), by=by))
