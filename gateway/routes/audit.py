"""The audit log: a tenant reads its own, the admin any tenant's, also of one that is deleted."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from core.truth.audit import Action, list_records
from gateway.auth import Admin, AdminTenant
from gateway.openapi import errors
from gateway.routes.parameters import Limit, known_id
from gateway.schemas import AuditObject, Page
from gateway.services import Parts, Services
from gateway.views import audit_object, page

router = APIRouter(tags=["audit"])
AfterRecord = Annotated[int | None, Query(ge=1, lt=2**63, description="Id of the last record already seen.")]
OfAction = Annotated[Action | None, Query(description="Only such deeds.")]
OfSubject = Annotated[
    str | None,
    Query(alias="subject", pattern="^[A-Za-z0-9_:]{1,128}$", description="Only deeds to what has this id."),
]


@router.get("/v1/audit", responses=errors(400, 401, 403, 503))
def audit(
    parts: Parts,
    tenant: AdminTenant,
    after: AfterRecord = None,
    limit: Limit = 20,
    action: OfAction = None,
    subject: OfSubject = None,
) -> Page[AuditObject]:
    """What was done to the tenant's things and by whom, newest first. Questions are not recorded."""
    return _page(parts, tenant.id, after, limit, action, subject)


@router.get("/v1/tenants/{tenant_id}/audit", dependencies=[Admin], responses=errors(400, 401, 403, 404, 503))
def audit_of_tenant(
    tenant_id: str,
    parts: Parts,
    after: AfterRecord = None,
    limit: Limit = 20,
    action: OfAction = None,
    subject: OfSubject = None,
) -> Page[AuditObject]:
    """The same for the admin; a deleted tenant's log stays. One that never was has an empty one."""
    return _page(parts, known_id("tenant", tenant_id), after, limit, action, subject)


def _page(
    parts: Services, tenant_id: str, after: int | None, limit: int, action: Action | None, subject: str | None
) -> Page[AuditObject]:
    with parts.database.read() as connection:
        found = list_records(connection, tenant_id, after=after, limit=limit + 1, action=action, subject_id=subject)
    return page(found, limit, audit_object)
