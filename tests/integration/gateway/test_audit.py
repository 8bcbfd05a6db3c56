from __future__ import annotations

from typing import Any

import httpx

from tests.integration.gateway.conftest import ADMIN_KEY, Gateway

TEXT = {"title": "My diary", "text": "The harbour opens at six.", "collection": "what nobody may know"}


def test_a_tenant_reads_who_did_what_and_when_in_which_request(gateway: Gateway) -> None:
    with gateway.client(ADMIN_KEY) as admin:
        made = admin.post("/v1/tenants", json={"name": "A name"}, headers={"X-Request-Id": "made-it"}).json()
        admin.patch(f"/v1/tenants/{made['id']}", json={"fallback": "text"})
    with gateway.client(made["api_key"]) as tenant:
        memory = tenant.post("/v1/memories", json=TEXT, headers={"Idempotency-Key": "k"}).json()
        tenant.post("/v1/memories", json=TEXT, headers={"Idempotency-Key": "k"})
        tenant.post(f"/v1/jobs/{memory['job_id']}/cancel")
        revised = tenant.put(f"/v1/memories/{memory['id']}", json={"text": "It opens at five."}).json()
        tenant.delete(f"/v1/memories/{memory['id']}")
        answer = tenant.get("/v1/audit")
    told = [(one["action"], one["subject"]["id"], one["data"]) for one in answer.json()["data"]][::-1]
    ours = made["api_key_id"]
    assert told == [
        ("tenant.created", made["id"], {}),
        ("key.issued", ours, {"scopes": ["ingest", "query", "read", "admin"]}),
        ("tenant.changed", made["id"], {"fallback": "text"}),
        ("memory.remembered", memory["id"], {"job_id": memory["job_id"]}),
        ("job.cancelled", memory["job_id"], {"memory_id": memory["id"]}),
        ("memory.revised", memory["id"], {"job_id": revised["job_id"]}),
        ("memory.deleted", memory["id"], {}),
    ]
    actors = [one["actor"] for one in answer.json()["data"]][::-1]
    assert actors == ["admin"] * 3 + [f"key:{ours}"] * 4
    assert answer.json()["data"][-1]["request_id"] == "made-it"
    assert all(words not in answer.text for words in ("diary", "harbour", "nobody may know", "A name"))


def test_questions_are_not_recorded(gateway: Gateway, tenant: httpx.Client) -> None:
    before = tenant.get("/v1/audit").json()
    tenant.post("/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": "hi"}]})
    assert tenant.get("/v1/audit").json() == before


def test_the_log_comes_in_pages_and_is_filtered(gateway: Gateway, tenant: httpx.Client) -> None:
    ids = [tenant.post("/v1/memories", json=TEXT).json()["id"] for _ in range(3)]
    seen: list[dict[str, Any]] = []
    after: dict[str, int] = {}
    while True:
        page = tenant.get("/v1/audit", params={"limit": 2, "action": "memory.remembered", **after}).json()
        seen += page["data"]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert [one["subject"]["id"] for one in seen] == ids[::-1]
    of_one = tenant.get("/v1/audit", params={"subject": ids[1]}).json()["data"]
    assert [one["action"] for one in of_one] == ["memory.remembered"]
    for wrong in ({"action": "memory.stolen"}, {"after": 0}, {"subject": "a b"}):
        assert tenant.get("/v1/audit", params=wrong).status_code == 400


def test_the_admin_reads_any_tenants_log_and_a_tenant_only_its_own(
    gateway: Gateway, tenant: httpx.Client, other_tenant: httpx.Client
) -> None:
    tenant.post("/v1/memories", json=TEXT)
    theirs = other_tenant.get("/v1/audit").json()
    assert "memory.remembered" not in str(theirs)
    tenant_id = tenant.get("/v1/audit").json()["data"][0]["tenant_id"]
    path = f"/v1/tenants/{tenant_id}/audit"
    assert other_tenant.get(path).status_code == 403
    with gateway.client(ADMIN_KEY) as admin:
        assert admin.get(path).json() == tenant.get("/v1/audit").json()
        assert admin.get("/v1/tenants/nobody/audit").status_code == 404
