"""What a tenant sees and changes of itself."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from core.truth.audit import Actor
from core.truth.tenants import configure
from gateway.auth import AdminTenant, ReadTenant, actor_of
from gateway.bodies import read_json
from gateway.openapi import errors, takes
from gateway.schemas import OwnSettings, TenantObject
from gateway.services import Parts, Services
from gateway.views import tenant_object

router = APIRouter(tags=["tenants"])


@router.get("/v1/tenant", responses=errors(401, 403, 503))
def own_tenant(tenant: ReadTenant) -> TenantObject:
    """The tenant of the key."""
    return tenant_object(tenant)


@router.patch(
    "/v1/tenant",
    response_model=TenantObject,
    responses=errors(400, 401, 403, 413, 503),
    openapi_extra=takes(OwnSettings),
)
async def change_own_tenant(request: Request, parts: Parts, tenant: AdminTenant) -> TenantObject:
    """Changes the tenant's own settings; inference workers follow at its next question."""
    wanted, _ = await read_json(request, OwnSettings, parts.settings.limits.body_bytes)
    return await run_in_threadpool(_change, parts, tenant.id, wanted, actor_of(request))


def _change(parts: Services, tenant_id: str, wanted: OwnSettings, by: Actor) -> TenantObject:
    with parts.database.begin() as connection:
        return tenant_object(configure(connection, tenant_id, wanted.model_dump(exclude_unset=True), by=by))
