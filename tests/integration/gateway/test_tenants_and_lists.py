from __future__ import annotations

import json

import httpx
import pytest

from tests.integration.gateway.conftest import ADMIN_KEY, Gateway


def test_the_admin_makes_tenants_and_sees_each_key_once(gateway: Gateway) -> None:
    with gateway.client(ADMIN_KEY) as admin:
        made = admin.post("/v1/tenants", json={"name": "harbour", "weight": 2})
        assert made.status_code == 201
        assert made.json()["api_key"].startswith("lb_")
        assert made.json()["weight"] == 2.0

        (listed,) = admin.get("/v1/tenants").json()["data"]
        assert listed == {name: value for name, value in made.json().items() if not name.startswith("api_key")}
    with gateway.client(made.json()["api_key"]) as client:
        assert client.get("/v1/memories").json() == {
            "object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None
        }  # fmt: skip


QUOTAS = ("memories", "bytes", "jobs_in_flight", "requests_per_minute")


def test_the_admin_sets_quotas_one_by_one_and_takes_them_back(gateway: Gateway) -> None:
    none = dict.fromkeys(QUOTAS)
    with gateway.client(ADMIN_KEY) as admin:
        made = admin.post("/v1/tenants", json={"name": "small", "quotas": {"memories": 2}}).json()
        assert made["quotas"] == {**none, "memories": 2}
        assert admin.post("/v1/tenants", json={"name": "plain"}).json()["quotas"] == none
        path = f"/v1/tenants/{made['id']}"
        changed = admin.patch(path, json={"quotas": {"bytes": 10_000, "jobs_in_flight": 1}}).json()["quotas"]
        assert changed == {**none, "memories": 2, "bytes": 10_000, "jobs_in_flight": 1}
        changed = admin.patch(path, json={"quotas": {"memories": None, "bytes": 0}, "fallback": "text"}).json()
        assert (changed["quotas"], changed["fallback"]) == ({**none, "bytes": 0, "jobs_in_flight": 1}, "text")
        for wrong in ({"memories": -1}, {"jobs_in_flight": 0}, {"bytes": 1.5}, {"bytes": 2**60}, {"queries": 3}, None):
            assert admin.patch(path, json={"quotas": wrong}).status_code == 400
        assert admin.get(path).json()["quotas"] == changed["quotas"]
        assert admin.get(f"/v1/tenants/tenant_{'a' * 26}").status_code == 404
    with gateway.client(made["api_key"]) as client:
        assert client.get(path).status_code == 403
        assert client.patch(path, json={"quotas": {"bytes": None}}).status_code == 403


def test_a_tenant_and_the_admin_see_what_is_used_and_the_limits_that_hold(gateway: Gateway) -> None:
    with gateway.client(ADMIN_KEY) as admin:
        made = admin.post("/v1/tenants", json={"name": "small", "quotas": {"memories": 2}}).json()
        with gateway.client(made["api_key"]) as client:
            memory = _remember(client, "One text")
            usage = client.get("/v1/usage").json()
            assert usage["memories"] == {"used": 1, "limit": 2}
            assert usage["bytes"]["used"] > len("One text")
            assert (usage["jobs_waiting"], usage["jobs_in_flight"]) == (
                {"used": 1, "limit": gateway.services.settings.limits.backlog_per_tenant},
                {"used": 0, "limit": gateway.services.settings.jobs.in_flight_per_tenant},
            )
            assert usage["requests_per_minute"] == {"limit": None}
            assert admin.get(f"/v1/tenants/{made['id']}").json()["usage"] == usage
            client.delete(f"/v1/memories/{memory['id']}")
            left = client.get("/v1/usage").json()
            assert (left["memories"]["used"], left["bytes"]["used"], left["jobs_waiting"]["used"]) == (0, 0, 0)


def test_a_full_tenant_is_told_what_to_do_and_when_it_may_come_back(gateway: Gateway) -> None:
    with gateway.client(ADMIN_KEY) as admin:
        made = admin.post("/v1/tenants", json={"name": "small", "quotas": {"memories": 1}}).json()
        with gateway.client(made["api_key"]) as client:
            first = _remember(client, "One")
            before = gateway.left()
            refused = client.post("/v1/memories", json={"title": "T", "text": "Two"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
            assert "has 1 of at most 1 memories. Delete memories" in refused.json()["error"]["message"]
            assert int(refused.headers["Retry-After"]) > 0
            assert gateway.left() == before
            client.delete(f"/v1/memories/{first['id']}")
            assert client.post("/v1/memories", json={"title": "T", "text": "Two"}).status_code == 202


def test_a_tenant_that_asks_too_often_is_refused_on_every_route_and_others_are_not(
    gateway: Gateway, other_tenant: httpx.Client
) -> None:
    with gateway.client(ADMIN_KEY) as admin:
        made = admin.post("/v1/tenants", json={"name": "busy", "quotas": {"requests_per_minute": 3}}).json()
        with gateway.client(made["api_key"]) as client:
            statuses = [client.get("/v1/memories").status_code for _ in range(6)]
            assert statuses[:3] == [200] * 3
            assert statuses[-1] == 429
            refused = client.post("/v1/chat/completions", json={"model": "m", "messages": []})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            assert other_tenant.get("/v1/memories").status_code == 200
            admin.patch(f"/v1/tenants/{made['id']}", json={"quotas": {"requests_per_minute": 1000}})
            assert client.get("/v1/memories").status_code == 200


def test_the_admin_changes_a_tenants_weight_and_the_log_has_it(gateway: Gateway) -> None:
    with gateway.client(ADMIN_KEY) as admin:
        made = admin.post("/v1/tenants", json={"name": "harbour", "fallback": "text"}).json()
        path = f"/v1/tenants/{made['id']}"
        changed = admin.patch(path, json={"weight": 2.5})
        assert (changed.status_code, changed.json()["weight"], changed.json()["fallback"]) == (200, 2.5, "text")
        for wrong in (0, -1, 1e-9, 1000.5, 1e400, "2", None, True):
            refused = admin.patch(path, content=json.dumps({"weight": wrong}))
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request"), wrong
        assert admin.get(path).json()["weight"] == 2.5
        assert [one["weight"] for one in admin.get("/v1/tenants").json()["data"]] == [2.5]
        deeds = admin.get(f"{path}/audit", params={"action": "tenant.changed"}).json()["data"]
        assert [(deed["actor"], deed["data"]) for deed in deeds] == [("admin", {"weight": 2.5})]
    with gateway.client(made["api_key"]) as client:
        assert client.patch(path, json={"weight": 9}).status_code == 403
        assert client.patch("/v1/tenant", json={"weight": 9}).status_code == 400
        assert client.get("/v1/tenant").json()["weight"] == 2.5


@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": "  "}, {"name": 5}, {"name": "a", "weight": 0}, {"name": "a", "weight": "NaN"},
     {"name": "a", "weight": 1e9}, {"name": "a", "weight": 1e-9}, {"name": "a", "weight": None},
     {"name": "a", "key": "mine"}, {"name": "a\0"}, {"name": "a", "false_activation": 1.5}, {"name": "a" * 201}],
)  # fmt: skip
def test_a_tenant_that_cannot_be_is_refused(body: dict[str, object], gateway: Gateway) -> None:
    with gateway.client(ADMIN_KEY) as admin:
        assert admin.post("/v1/tenants", json=body).status_code == 400
        assert admin.get("/v1/tenants").json()["data"] == []


def test_the_admin_says_what_rate_a_tenants_gate_is_promised_to_keep(gateway: Gateway) -> None:
    with gateway.client(ADMIN_KEY) as admin:
        made = admin.post("/v1/tenants", json={"name": "strict", "false_activation": 0.01}).json()
        assert made["false_activation"] == 0.01
        path = f"/v1/tenants/{made['id']}"
        for rate in (0.2, None):
            changed = admin.patch(path, json={"false_activation": rate})
            assert (changed.status_code, changed.json()["false_activation"]) == (200, rate)
        for body in ({}, {"false_activation": 0}, {"false_activation": 1}, {"false_activation": "0.1"}, {"name": "b"}):
            assert admin.patch(path, json=body).status_code == 400
        for unknown in ("tenant_x", f"tenant_{'a' * 26}"):
            assert admin.patch(f"/v1/tenants/{unknown}", json={"false_activation": 0.1}).status_code == 404
    with gateway.client(made["api_key"]) as client:
        assert client.patch(path, json={"false_activation": 0.9}).status_code == 403


def test_tenants_are_listed_in_pages(gateway: Gateway) -> None:
    for name in "abc":
        gateway.new_tenant(name)
    with gateway.client(ADMIN_KEY) as admin:
        first = admin.get("/v1/tenants", params={"limit": 2}).json()
        rest = admin.get("/v1/tenants", params={"limit": 2, "after": first["last_id"]}).json()
        assert admin.get("/v1/tenants", params={"after": "tenant_unknown"}).status_code == 400
    assert [tenant["name"] for tenant in first["data"] + rest["data"]] == ["a", "b", "c"]
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_memories_are_listed_in_pages_newest_first(gateway: Gateway, tenant: httpx.Client) -> None:
    ids = [_remember(tenant, f"Text {number}")["id"] for number in range(5)]

    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = tenant.get("/v1/memories", params={"limit": 2, **after}).json()
        seen += [memory["id"] for memory in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert seen == ids[::-1]


def test_memories_are_listed_by_collection_with_their_jobs(gateway: Gateway, tenant: httpx.Client) -> None:
    _remember(tenant, "One")
    cats = _remember(tenant, "Two", collection="cats & dogs/ü")
    listed = tenant.get("/v1/memories", params={"collection": "cats & dogs/ü"}).json()["data"]
    assert listed == [cats]
    assert listed[0]["job_id"]
    assert tenant.get("/v1/memories", params={"collection": "none"}).json()["data"] == []


def test_a_forgotten_memory_serves_nothing_and_shows_when_it_went(gateway: Gateway, tenant: httpx.Client) -> None:
    memory = _remember(tenant, "One", title="My diagnosis", metadata={"doctor": "who"})

    deleted = tenant.delete(f"/v1/memories/{memory['id']}")

    assert deleted.status_code == 200
    assert deleted.json()["object"] == "memory.deleted"
    assert deleted.json()["deleted"] is True
    assert deleted.json()["purged_at"] is None
    assert tenant.delete(f"/v1/memories/{memory['id']}").json() == deleted.json()
    shown = tenant.get(f"/v1/memories/{memory['id']}")
    assert (shown.json()["status"], shown.json()["deleted_at"]) == ("deleted", deleted.json()["deleted_at"])
    assert "diagnosis" not in shown.text
    assert "doctor" not in shown.text
    assert tenant.get("/v1/memories").json()["data"] == []
    assert len(tenant.get("/v1/memories", params={"include_deleted": True}).json()["data"]) == 1
    job = tenant.get(f"/v1/jobs/{memory['job_id']}").json()
    assert (job["status"], job["reason"]) == ("cancelled", "memory_deleted")


def _remember(client: httpx.Client, text: str, **fields: object) -> dict[str, str]:
    made: dict[str, str] = client.post("/v1/memories", json={"title": "T", "text": text, **fields}).json()
    return made


def test_the_admin_says_whether_a_tenants_memories_may_serve_from_their_text(gateway: Gateway) -> None:
    with gateway.client(ADMIN_KEY) as admin:
        made = admin.post("/v1/tenants", json={"name": "eager", "fallback": "text", "false_activation": 0.1}).json()
        assert made["fallback"] == "text"
        assert admin.post("/v1/tenants", json={"name": "plain"}).json()["fallback"] == "none"
        path = f"/v1/tenants/{made['id']}"
        changed = admin.patch(path, json={"fallback": "none"}).json()
        assert (changed["fallback"], changed["false_activation"]) == ("none", 0.1)
        for body in ({"fallback": "always"}, {"fallback": None}):
            assert admin.patch(path, json=body).status_code == 400
