"""What a tenant uses, and how much it may."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import Connection

from core.settings import Settings
from core.truth.records import Quotas, Tenant
from core.truth.usage import open_jobs, usage_of
from gateway.auth import ReadTenant
from gateway.openapi import errors
from gateway.schemas import UsageObject
from gateway.services import Parts
from gateway.views import usage_object

router = APIRouter(tags=["usage"])


@router.get("/v1/usage", responses=errors(401, 403, 503))
def usage(parts: Parts, tenant: ReadTenant) -> UsageObject:
    """What the tenant has and has waiting, with the most that it may."""
    with parts.database.read() as connection:
        return usage_with_limits(connection, parts.settings, tenant)


def usage_with_limits(connection: Connection, settings: Settings, tenant: Tenant) -> UsageObject:
    limits = settings.limits
    defaults = Quotas(
        memories=limits.memories_per_tenant,
        bytes=limits.bytes_per_tenant,
        jobs_in_flight=settings.jobs.in_flight_per_tenant,
        requests_per_minute=limits.requests_per_minute,
    )
    return usage_object(
        usage_of(connection, tenant.id),
        open_jobs(connection, tenant.id),
        tenant.quotas.over(defaults),
        limits.backlog_per_tenant,
    )
