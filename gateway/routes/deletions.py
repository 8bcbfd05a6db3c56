"""Deletions: how far what a tenant deleted is forgotten."""

from __future__ import annotations

from fastapi import APIRouter

from core.truth.deletions import get_deletion, list_deletions
from gateway.auth import ReadTenant
from gateway.openapi import errors
from gateway.routes.parameters import AfterDeletion, Limit, known_id
from gateway.schemas import DeletionObject, Page
from gateway.services import Parts
from gateway.views import deletion_object, page

router = APIRouter(tags=["deletions"])


@router.get("/v1/deletions", responses=errors(400, 401, 403, 503))
def deletions(parts: Parts, tenant: ReadTenant, after: AfterDeletion = None, limit: Limit = 20) -> Page[DeletionObject]:
    """The tenant's deletions, newest first."""
    with parts.database.read() as connection:
        found = list_deletions(connection, tenant.id, after=after, limit=limit + 1)
    return page(found, limit, deletion_object)


@router.get("/v1/deletions/{deletion_id}", responses=errors(401, 403, 404, 503))
def deletion(deletion_id: str, parts: Parts, tenant: ReadTenant) -> DeletionObject:
    """One deletion, with the time of each step."""
    with parts.database.read() as connection:
        return deletion_object(get_deletion(connection, tenant.id, known_id("del", deletion_id)))
