from __future__ import annotations

from typing import Any

import httpx

from tests.integration.gateway.conftest import ADMIN_KEY, Gateway

TEXT = "The harbour of Saltmere was built in 1843."


def remember(tenant: httpx.Client, title: str, collection: str = "default", **headers: str) -> dict[str, Any]:
    body = {"title": title, "text": TEXT, "collection": collection}
    answer = tenant.post("/v1/memories", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    sent: dict[str, Any] = answer.json()
    return sent


def test_a_deleted_memory_names_its_deletion(tenant: httpx.Client, other_tenant: httpx.Client) -> None:
    memory = remember(tenant, "Harbour")
    gone = tenant.delete(f"/v1/memories/{memory['id']}").json()
    assert tenant.delete(f"/v1/memories/{memory['id']}").json() == gone
    deletion = tenant.get(f"/v1/deletions/{gone['deletion_id']}").json()
    assert (deletion["kind"], deletion["target"], deletion["memories"]) == ("memory", memory["id"], 1)
    assert (deletion["state"], deletion["tombstoned_at"]) == ("tombstoned", gone["deleted_at"])
    assert tenant.get(f"/v1/memories/{memory['id']}").json()["deletion_id"] == deletion["id"]
    assert other_tenant.get(f"/v1/deletions/{deletion['id']}").status_code == 404
    assert other_tenant.get("/v1/deletions").json()["data"] == []


def test_a_collection_is_deleted_by_its_name_and_the_list_pages_through_deletions(
    tenant: httpx.Client, other_tenant: httpx.Client
) -> None:
    for number in range(3):
        remember(tenant, f"In it {number}", "users/anna?")
    kept, theirs = remember(tenant, "Beside it"), remember(other_tenant, "Theirs", "users/anna?")
    deletion = tenant.delete("/v1/memories", params={"collection": "users/anna?"}).json()
    assert (deletion["state"], deletion["memories"]) == ("tombstoned", 3)
    assert "anna" not in deletion["target"]
    assert [one["id"] for one in tenant.get("/v1/memories").json()["data"]] == [kept["id"]]
    assert other_tenant.get(f"/v1/memories/{theirs['id']}").json()["status"] == "pending"
    again = tenant.delete("/v1/memories", params={"collection": "users/anna?"}).json()
    assert again["memories"] == 0
    newest = tenant.get("/v1/deletions", params={"limit": 1}).json()
    assert ([one["id"] for one in newest["data"]], newest["has_more"]) == ([again["id"]], True)
    rest = tenant.get("/v1/deletions", params={"after": again["id"]}).json()
    assert [one["id"] for one in rest["data"]] == [deletion["id"]]


def test_without_a_collection_nothing_is_deleted(tenant: httpx.Client) -> None:
    memory = remember(tenant, "Harbour")
    for params in ({}, {"collection": ""}):
        assert tenant.delete("/v1/memories", params=params).status_code == 400
    assert tenant.get(f"/v1/memories/{memory['id']}").json()["status"] == "pending"


def test_a_deleted_tenant_is_known_to_the_admin_alone(
    gateway: Gateway, tenant: httpx.Client, other_tenant: httpx.Client
) -> None:
    remember(tenant, "Harbour")
    with gateway.client(ADMIN_KEY) as admin:
        mine = next(one for one in admin.get("/v1/tenants").json()["data"] if one["name"] == "harbour")
        path = f"/v1/tenants/{mine['id']}"
        assert admin.get(f"{path}/deletion").status_code == 404
        assert tenant.delete(path).status_code == 403
        deletion = admin.delete(path).json()
        assert (deletion["kind"], deletion["target"]) == ("tenant", mine["id"])
        assert admin.delete(path).json() == deletion == admin.get(f"{path}/deletion").json()
        assert [one["name"] for one in admin.get("/v1/tenants").json()["data"]] == ["bakery"]
        assert admin.patch(path, json={"fallback": "text"}).status_code == 404
    for method, address in (("GET", "/v1/memories"), ("POST", "/v1/memories"), ("GET", "/v1/deletions")):
        assert tenant.request(method, address).status_code == 401
    assert remember(other_tenant, "Bread")["status"] == "pending"


def test_a_retry_of_a_forgotten_memory_is_answered_with_what_became_of_it(tenant: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once"}
    memory = remember(tenant, "Harbour", **headers)
    tenant.delete("/v1/memories", params={"collection": "default"})
    again = remember(tenant, "Harbour", **headers)
    assert (again["id"], again["status"], again["title"]) == (memory["id"], "deleted", "")
