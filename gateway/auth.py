"""Who is asking: a tenant by its API key, or the admin. The tenant comes from the credential and from nowhere else.

What a route asks for is the type of its parameter: `ReadTenant` is a tenant whose key has the scope `read`. The OpenAPI
document says it of each operation, from the same declaration.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from sqlalchemy.exc import SQLAlchemyError

from core.credentials import is_one_of
from core.errors import Forbidden, Unauthenticated
from core.logs import get_logger
from core.truth.api_keys import Opened, note_use, open_key
from core.truth.audit import ADMIN, Actor, of_key
from core.truth.records import Tenant
from gateway.services import Parts, Services

TENANT_SCHEME = "TenantKey"
_tenant_key = HTTPBearer(
    auto_error=False,
    scheme_name=TENANT_SCHEME,
    description="A tenant's API key: `Authorization: Bearer lb_…`. Each operation names the scope that it needs.",
)
_admin_key = HTTPBearer(
    auto_error=False, scheme_name="AdminKey", description="The admin key of the gateway's settings."
)
_log = get_logger(__name__)


def authenticated_tenant(
    request: Request,
    needed: SecurityScopes,
    parts: Parts,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_tenant_key)],
) -> Tenant:
    """The tenant of the key.

    Raises `Unauthenticated`, `Forbidden` where the key lacks a scope that is needed, and `RateLimited` where the tenant
    asks too often.
    """
    if credentials is None:
        raise Unauthenticated
    with parts.database.look() as connection:
        opened = open_key(connection, credentials.credentials)
    request.state.tenant_id = opened.tenant.id
    request.state.actor = Actor(of_key(opened.key.id), request.state.request_id)
    parts.rates.spend(opened.tenant)
    for scope in needed.scopes:
        if scope not in opened.key.scopes:
            raise Forbidden(f"This key lacks the scope '{scope}'; use one that has it.")
    if opened.use_is_news:
        _note_use(parts, opened)
    return opened.tenant


def admin(
    request: Request, parts: Parts, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_admin_key)]
) -> None:
    """Lets the admin key pass; a tenant's key is `Forbidden`, anything else `Unauthenticated`."""
    if credentials is None:
        raise Unauthenticated
    settings = parts.settings
    if is_one_of(credentials.credentials, settings.admin_key, settings.admin_key_also):
        request.state.actor = Actor(ADMIN, request.state.request_id)
        return
    with parts.database.look() as connection:
        open_key(connection, credentials.credentials)
    raise Forbidden


def actor_of(request: Request) -> Actor:
    """Who asks, for the audit log; authentication has said it."""
    actor: Actor = request.state.actor
    return actor


IngestTenant = Annotated[Tenant, Security(authenticated_tenant, scopes=["ingest"])]
QueryTenant = Annotated[Tenant, Security(authenticated_tenant, scopes=["query"])]
ReadTenant = Annotated[Tenant, Security(authenticated_tenant, scopes=["read"])]
AdminTenant = Annotated[Tenant, Security(authenticated_tenant, scopes=["admin"])]
"""Whose key manages the tenant itself; not to be confused with the admin of the whole installation."""
Admin = Depends(admin)


def _note_use(parts: Services, opened: Opened) -> None:
    try:
        with parts.database.begin() as connection:
            note_use(connection, opened.key)
    except SQLAlchemyError as problem:
        # Nobody waits for this: the next request says it again.
        _log.warning("the use of a key was not noted", key_id=opened.key.id, reason=str(problem))
