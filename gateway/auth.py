"""Who is asking: a tenant by its API key, or the admin. The tenant comes from the credential and from nowhere else."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from core.errors import Forbidden, Unauthenticated
from core.truth.audit import ADMIN, Actor, of_key
from core.truth.records import Tenant
from core.truth.tenants import key_id, tenant_of_key
from gateway.services import Parts

_tenant_key = HTTPBearer(
    auto_error=False, scheme_name="TenantKey", description="A tenant's API key: `Authorization: Bearer lb_…`."
)
_admin_key = HTTPBearer(
    auto_error=False, scheme_name="AdminKey", description="The admin key of the gateway's settings."
)


def authenticated_tenant(
    request: Request,
    parts: Parts,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_tenant_key)],
) -> Tenant:
    """The tenant of the key; raises `Unauthenticated`."""
    if credentials is None:
        raise Unauthenticated
    with parts.database.read() as connection:
        tenant = tenant_of_key(connection, credentials.credentials)
    if tenant is None:
        raise Unauthenticated
    request.state.tenant_id = tenant.id
    request.state.actor = Actor(of_key(key_id(credentials.credentials)), request.state.request_id)
    return tenant


def admin(
    request: Request, parts: Parts, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_admin_key)]
) -> None:
    """Lets the admin key pass; a tenant's key is `Forbidden`, anything else `Unauthenticated`."""
    if credentials is None:
        raise Unauthenticated
    given = credentials.credentials
    expected = parts.settings.admin_key
    if expected is not None and _same(given, expected.get_secret_value()):
        request.state.actor = Actor(ADMIN, request.state.request_id)
        return
    with parts.database.read() as connection:
        if tenant_of_key(connection, given) is not None:
            raise Forbidden
    raise Unauthenticated


def actor_of(request: Request) -> Actor:
    """Who asks, for the audit log; authentication has said it."""
    actor: Actor = request.state.actor
    return actor


CurrentTenant = Annotated[Tenant, Depends(authenticated_tenant)]
Admin = Depends(admin)


def _same(given: str, expected: str) -> bool:
    """Constant in time; an empty admin key lets nobody in."""
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())
