from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from core.metrics import GatewayMetrics
from core.truth import tables
from core.truth.clock import now
from gateway.app import create_app
from tests.integration.gateway.conftest import ADMIN_KEY, Gateway
from tests.integration.gateway.servers import RunningServer


def issue(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = client.post("/v1/keys", json={"name": "a key", **fields}).raise_for_status().json()
    return made


def test_a_tenant_issues_lists_and_revokes_its_own_keys(gateway: Gateway, tenant: httpx.Client) -> None:
    made = issue(tenant, name="the asker", scopes=["query"], expires_in_seconds=3600)
    assert (made["name"], made["scopes"], made["active"]) == ("the asker", ["query"], True)
    assert made["expires_at"] - made["created_at"] == 3600

    listed = tenant.get("/v1/keys", params={"limit": 1}).json()
    assert listed["data"] == [{name: value for name, value in made.items() if name != "api_key"}]
    older = tenant.get("/v1/keys", params={"after": listed["last_id"]}).json()["data"]
    assert [(key["scopes"], key["name"]) for key in older] == [(["ingest", "query", "read", "admin"], "")]
    assert older[0]["last_used_at"] is not None
    assert made["api_key"] not in tenant.get("/v1/keys").text

    with gateway.client(made["api_key"]) as asker:
        assert asker.get("/v1/models").status_code == 503
        revoked = tenant.delete(f"/v1/keys/{made['id']}")
        assert (revoked.status_code, revoked.json()["active"]) == (200, False)
        answer = asker.get("/v1/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "revoked" in answer.json()["error"]["message"]
    assert tenant.delete(f"/v1/keys/{made['id']}").json() == revoked.json()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": " "},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "x", "expires_in_seconds": 0},
        {"name": "x", "expires_in_seconds": 10**12},
        {"name": "x", "tenant_id": "tenant_other"},
    ],
)
def test_a_key_that_cannot_be_is_refused(gateway: Gateway, tenant: httpx.Client, body: dict[str, Any]) -> None:
    assert tenant.post("/v1/keys", json=body).status_code == 400


def test_a_rotated_key_gives_way_to_a_successor_with_the_same_scopes(gateway: Gateway, tenant: httpx.Client) -> None:
    old = issue(tenant, scopes=["read"])
    new = tenant.post(f"/v1/keys/{old['id']}/rotate", json={}).json()
    assert (new["name"], new["scopes"]) == (old["name"], ["read"])
    with gateway.client(old["api_key"]) as former, gateway.client(new["api_key"]) as latter:
        assert former.get("/v1/memories").status_code == latter.get("/v1/memories").status_code == 200
        shown = {key["id"]: key for key in tenant.get("/v1/keys").json()["data"]}[old["id"]]
        assert shown["active"]
        assert 86_300 < shown["revoked_at"] - shown["created_at"] <= 86_400 + 60
        assert tenant.post(f"/v1/keys/{old['id']}/rotate", json={"grace_seconds": 0}).status_code == 201
        assert former.get("/v1/memories").status_code == 401
        assert latter.get("/v1/memories").status_code == 200
    again = tenant.post(f"/v1/keys/{old['id']}/rotate", json={})
    assert (again.status_code, again.json()["error"]["type"]) == (409, "conflict_error")


def test_a_key_may_rotate_itself(gateway: Gateway) -> None:
    key = gateway.new_tenant("harbour")
    with gateway.client(key) as client:
        (own,) = client.get("/v1/keys").json()["data"]
        successor = client.post(f"/v1/keys/{own['id']}/rotate", json={"grace_seconds": 0}).json()["api_key"]
        assert client.get("/v1/keys").status_code == 401
    with gateway.client(successor) as client:
        assert client.get("/v1/keys").status_code == 200


def test_an_expired_key_says_that_it_is(gateway: Gateway, tenant: httpx.Client) -> None:
    made = issue(tenant, expires_in_seconds=60)
    with gateway.client(made["api_key"]) as client:
        assert client.get("/v1/memories").status_code == 200
        with gateway.database.begin() as connection:
            expiring = update(tables.api_keys).where(tables.api_keys.c.expires_at.is_not(None))
            connection.execute(expiring.values(expires_at=now()))
        answer = client.get("/v1/memories")
    assert answer.status_code == 401
    assert "expired" in answer.json()["error"]["message"]


def test_the_admin_manages_the_keys_of_any_tenant(gateway: Gateway, tenant: httpx.Client) -> None:
    tenant_id = tenant.get("/v1/tenant").json()["id"]
    path = f"/v1/tenants/{tenant_id}/keys"
    with gateway.client(ADMIN_KEY) as admin:
        made = admin.post(path, json={"name": "from above", "scopes": ["read"]}).json()
        assert made["tenant_id"] == tenant_id
        assert admin.get(path).json() == tenant.get("/v1/keys").json()
        new = admin.post(f"{path}/{made['id']}/rotate", json={"grace_seconds": 0}).json()
        with gateway.client(new["api_key"]) as client:
            assert client.get("/v1/memories").status_code == 200
            assert admin.delete(f"{path}/{new['id']}").json()["active"] is False
            assert client.get("/v1/memories").status_code == 401
        for unknown in ("tenant_x", f"tenant_{'a' * 26}"):
            assert admin.get(f"/v1/tenants/{unknown}/keys").status_code == 404
            assert admin.post(f"/v1/tenants/{unknown}/keys", json={"name": "x"}).status_code == 404
        told = admin.get(f"/v1/tenants/{tenant_id}/audit", params={"subject": made["id"]}).json()["data"]
    assert [(one["action"], one["actor"]) for one in told] == [("key.rotated", "admin"), ("key.issued", "admin")]


def test_a_tenant_sees_itself_and_changes_its_own_settings_and_no_others(
    gateway: Gateway, tenant: httpx.Client
) -> None:
    before = tenant.get("/v1/tenant").json()
    changed = tenant.patch("/v1/tenant", json={"fallback": "text"}).json()
    assert changed == {**before, "fallback": "text"}
    assert tenant.get("/v1/tenant").json() == changed
    for body in ({}, {"weight": 9}, {"name": "x"}, {"fallback": "always"}, {"id": "tenant_x", "fallback": "none"}):
        assert tenant.patch("/v1/tenant", json=body).status_code == 400
    own = gateway.declared.document["components"]["schemas"]["OwnSettings"]["properties"]
    assert set(own) == {"false_activation", "fallback"}, "would a tenant raise its own limits with this?"


def test_while_the_admin_key_changes_both_open_and_afterwards_one(gateway: Gateway) -> None:
    changing = {"admin_key": SecretStr("the new one"), "previous_admin_key": SecretStr(ADMIN_KEY)}
    for keys, statuses in ((changing, (200, 200)), ({**changing, "previous_admin_key": None}, (200, 401))):
        settings = gateway.services.settings.model_copy(update=keys)
        app = create_app(replace(gateway.services, settings=settings, metrics=GatewayMetrics(CollectorRegistry())))
        with RunningServer(uvicorn.Config(app, log_config=None, lifespan="off")) as server:
            for key, status in zip(("the new one", ADMIN_KEY), statuses, strict=True):
                headers = {"Authorization": f"Bearer {key}"}
                answer = httpx.get(f"{server.url}/v1/tenants", headers=headers, trust_env=False)
                assert answer.status_code == status, (key, keys)


def test_a_key_opens_where_its_use_cannot_be_noted(
    gateway: Gateway, tenant: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = issue(tenant)
    monkeypatch.setattr(type(gateway.database), "begin", _away)
    with gateway.client(made["api_key"]) as client:
        assert client.get("/v1/memories").status_code == 200


def _away(_: object) -> Any:
    raise OperationalError("begin", {}, Exception("the database is read-only"))
