"""All that is kept of a tenant, for itself."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from core.truth.audit import Actor, record
from gateway.auth import AdminTenant, actor_of
from gateway.exporting import Export
from gateway.openapi import errors
from gateway.services import Parts, Services

MEDIA_TYPE = "application/x-tar"

router = APIRouter(tags=["tenants"])
_TAR = {"description": "A tar that ends with `complete.json`; without it, it was cut off.", "content": {MEDIA_TYPE: {}}}


@router.get("/v1/export", response_class=StreamingResponse, responses={200: _TAR, **errors(401, 403, 503)})
async def export(request: Request, parts: Parts, tenant: AdminTenant) -> StreamingResponse:
    """Everything of the tenant as one tar: settings, memories with their contexts (decrypted) and adapters, jobs and
    their events, deletions, the audit log. It has the memories that there were when it began."""
    await run_in_threadpool(_record, parts, tenant.id, actor_of(request))
    tar = Export(parts.database, parts.store, tenant.id, parts.stopping.is_set).tar()
    headers = {"Content-Disposition": f'attachment; filename="{tenant.id}.tar"', "Cache-Control": "no-store"}
    return StreamingResponse(tar, headers=headers, media_type=MEDIA_TYPE)


def _record(parts: Services, tenant_id: str, by: Actor) -> None:
    with parts.database.begin() as connection:
        record(connection, tenant_id, by, "tenant.exported", ("tenant", tenant_id))
