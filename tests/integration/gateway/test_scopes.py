"""Which key opens what, of every operation that the OpenAPI document has."""

from __future__ import annotations

import re

import httpx
from sqlalchemy import update

from core.credentials import key_sha256
from core.ids import new_id
from core.truth import tables
from core.truth.api_keys import SCOPES, Scope, issue_key
from core.truth.clock import now
from core.truth.tenants import create_tenant
from tests.integration.gateway.conftest import ADMIN_KEY, Gateway
from tests.integration.gateway.operations import Operation, operations

PUBLIC = {"GET /health", "GET /ready", "GET /metrics"}
SCOPE_OF = {
    "POST /v1/memories": "ingest",
    "POST /v1/memories/batch": "ingest",
    "GET /v1/usage": "read",
    "PUT /v1/memories/{memory_id}": "ingest",
    "GET /v1/memories": "read",
    "GET /v1/memories/{memory_id}": "read",
    "DELETE /v1/memories/{memory_id}": "admin",
    "GET /v1/jobs": "read",
    "GET /v1/jobs/{job_id}": "read",
    "GET /v1/jobs/{job_id}/events": "read",
    "POST /v1/jobs/{job_id}/cancel": "ingest",
    "POST /v1/chat/completions": "query",
    "POST /v1/completions": "query",
    "GET /v1/models": "query",
    "GET /v1/models/{model}": "query",
    "GET /v1/tenant": "read",
    "PATCH /v1/tenant": "admin",
    "GET /v1/keys": "admin",
    "POST /v1/keys": "admin",
    "POST /v1/keys/{key_id}/rotate": "admin",
    "DELETE /v1/keys/{key_id}": "admin",
    "GET /v1/audit": "admin",
    "DELETE /v1/memories": "admin",
    "GET /v1/deletions": "read",
    "GET /v1/deletions/{deletion_id}": "read",
    "GET /v1/export": "admin",
}
"""Written down a second time, so that nobody widens a route by accident. What is new has to be added here."""


def test_every_operation_needs_the_scope_that_was_decided_for_it(gateway: Gateway) -> None:
    declared = operations(gateway.declared.document)
    assert {one.name: one.scope for one in declared if one.who == "tenant"} == SCOPE_OF
    assert {one.name for one in declared if one.who == "anybody"} == PUBLIC
    assert all(one.path.startswith("/v1/tenants") for one in declared if one.who == "admin")


def test_every_operation_says_in_words_which_key_it_needs(gateway: Gateway) -> None:
    paths = gateway.declared.document["paths"]
    for one in operations(gateway.declared.document):
        told = paths[one.path][one.method.lower()].get("description", "")
        expected = {"tenant": f"scope `{one.scope}`", "admin": "Needs the admin key", "anybody": ""}[one.who]
        assert expected in told, one.name


def test_a_key_of_one_scope_opens_exactly_the_operations_that_need_that_scope(gateway: Gateway) -> None:
    for operation in operations(gateway.declared.document):
        for scope in SCOPES:
            # A tenant for each, since some of these may well end it.
            answer = _ask(gateway, operation, _key(gateway, scope))
            if operation.who == "anybody" or operation.scope == scope:
                assert answer.status_code not in (401, 403), (operation.name, scope, answer.text)
                continue
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["type"]) == (403, "forbidden", "permission_error"), (
                operation.name,
                scope,
            )
            needed = f"scope '{operation.scope}'" if operation.who == "tenant" else "admin key"
            assert needed in error["message"], operation.name


def test_the_admins_key_is_no_tenants_and_opens_only_the_admins_operations(gateway: Gateway) -> None:
    for operation in operations(gateway.declared.document):
        answer = _ask(gateway, operation, ADMIN_KEY)
        assert (answer.status_code == 401) == (operation.who == "tenant"), operation.name


def test_a_key_that_is_expired_or_revoked_or_was_never_issued_opens_nothing(gateway: Gateway) -> None:
    keys = {"expires_at": _key(gateway), "revoked_at": _key(gateway)}
    with gateway.database.begin() as connection:
        for column, key in keys.items():
            of_key = tables.api_keys.c.key_sha256 == key_sha256(key)
            connection.execute(update(tables.api_keys).where(of_key).values({column: now()}))
    for operation in operations(gateway.declared.document):
        for key in (None, "lb_never", *keys.values()):
            answer = _ask(gateway, operation, key)
            if operation.who == "anybody":
                assert answer.status_code != 401, operation.name
                continue
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), operation.name
            assert answer.headers["WWW-Authenticate"] == "Bearer"


def _key(gateway: Gateway, *scopes: Scope) -> str:
    """A key of a new tenant; without scopes it has all."""
    with gateway.database.begin() as connection:
        tenant = create_tenant(connection, "harbour")
        return issue_key(connection, tenant.id, scopes=scopes or SCOPES)[0]


def _ask(gateway: Gateway, operation: Operation, key: str | None) -> httpx.Response:
    """With ids that name nothing, and a body that says nothing."""
    path = re.sub(r"\{(\w+)\}", lambda found: _nobodys(found[1]), operation.path)
    with gateway.client(key) as client:
        return client.request(operation.method, path, json={} if operation.takes_body else None)


def _nobodys(parameter: str) -> str:
    kinds = {
        **{"memory_id": "mem", "job_id": "job", "key_id": "key", "tenant_id": "tenant", "model": "mem"},
        "deletion_id": "del",
    }
    return new_id(kinds[parameter])  # type: ignore[arg-type]
