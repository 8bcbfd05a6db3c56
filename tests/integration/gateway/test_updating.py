from __future__ import annotations

import json

import httpx
import pytest

from core.truth import jobs
from core.truth.forgetting import purge_rows
from core.truth.records import Publication
from tests.integration.gateway.conftest import Gateway

TEXT = {"title": "Harbour", "text": "The harbour opens at six.", "metadata": {"edition": 1}}
NEWER = {"text": "The harbour opens at seven."}


def make_ready(gateway: Gateway, memory: dict[str, object], version: int = 1) -> None:
    """Publishes the memory's newest job, as a worker would."""
    with gateway.database.begin() as connection:
        claimed = jobs.claim(connection, str(memory["job_id"]), "worker", 60)
        assert claimed is not None
        key = f"{memory['id']}/{version}/manifest.json"
        made = Publication(key, f"sha256:{version}", 10, claimed.memory.base_digest, version)
        assert jobs.publish(connection, claimed, made)


@pytest.fixture
def memory(gateway: Gateway, tenant: httpx.Client) -> dict[str, object]:
    memory = tenant.post("/v1/memories", json=TEXT).raise_for_status().json()
    make_ready(gateway, memory)
    return dict(tenant.get(f"/v1/memories/{memory['id']}").json())


def put(client: httpx.Client, memory: dict[str, object], body: object, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.put(f"/v1/memories/{memory['id']}", json=body, headers=headers)


def test_a_new_version_waits_while_the_old_one_is_shown_and_then_replaces_it(
    gateway: Gateway, tenant: httpx.Client, memory: dict[str, object]
) -> None:
    answer = put(tenant, memory, {**NEWER, "metadata": {"edition": 2}})
    assert answer.status_code == 202, answer.text
    waiting = answer.json()
    assert waiting["job_id"] != memory["job_id"]
    for name in ("id", "status", "version", "digest", "metadata", "context_tokens"):
        assert waiting[name] == memory[name], name
    make_ready(gateway, waiting, version=2)
    now = tenant.get(f"/v1/memories/{memory['id']}").json()
    assert (now["version"], now["digest"], now["metadata"], now["title"]) == (2, "sha256:2", {"edition": 2}, "Harbour")
    objects = [json.loads(gateway.services.store.get(found.key)) for found in gateway.services.store.list("")]
    assert {"kind": "text", "title": "Harbour", **NEWER} in objects


def test_a_failed_new_version_leaves_the_memory_ready_and_shows_its_job(
    tenant: httpx.Client, memory: dict[str, object]
) -> None:
    job_id = put(tenant, memory, {"messages": [{"role": "user", "content": "It opens at eight."}]}).json()["job_id"]
    tenant.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    now = tenant.get(f"/v1/memories/{memory['id']}").json()
    assert (now["status"], now["version"], now["kind"], now["job_id"]) == ("ready", 1, "text", job_id)


def test_a_memory_in_work_or_deleted_is_a_conflict_and_leaves_no_object(
    gateway: Gateway, tenant: httpx.Client, memory: dict[str, object]
) -> None:
    job_id = put(tenant, memory, NEWER).json()["job_id"]
    before = gateway.left()
    refused = put(tenant, memory, {"text": "The harbour opens at nine."})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert job_id in refused.json()["error"]["message"]
    assert gateway.left() == before
    tenant.delete(f"/v1/memories/{memory['id']}").raise_for_status()
    assert put(tenant, memory, NEWER).status_code == 409
    assert gateway.left()["objects"] == before["objects"]
    with gateway.database.begin() as connection:
        purge_rows(connection, [str(memory["id"])])
    purged = put(tenant, memory, NEWER)
    assert (purged.status_code, purged.json()["error"]["code"]) == (409, "conflict"), "whatever is left of it"


def test_a_retry_with_the_same_key_gives_the_first_answer_and_another_body_is_refused(
    gateway: Gateway, tenant: httpx.Client, memory: dict[str, object]
) -> None:
    first, again = put(tenant, memory, NEWER, "k"), put(tenant, memory, NEWER, "k")
    assert (first.status_code, again.status_code, again.json()["job_id"]) == (202, 202, first.json()["job_id"])
    assert again.headers["Idempotency-Replayed"] == "true"
    assert put(tenant, memory, {"text": "Other."}, "k").json()["error"]["code"] == "idempotency_conflict"
    as_new = tenant.post("/v1/memories", json={"title": "Harbour", **NEWER}, headers={"Idempotency-Key": "k"})
    assert as_new.status_code == 409
    assert gateway.left()["objects"] == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"text": "a", "messages": []}, "invalid_request"),
        ({"text": "a", "collection": "b"}, "invalid_request"),
        ({"text": "a", "title": "a" * 201}, "invalid_request"),
        ({"text": " . "}, "empty_context"),
        ({"text": "word " * 201}, "context_too_long"),
    ],
)
def test_what_cannot_be_a_context_is_refused(
    tenant: httpx.Client, memory: dict[str, object], body: object, code: str
) -> None:
    answer = put(tenant, memory, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_another_tenants_memory_is_not_found(other_tenant: httpx.Client, memory: dict[str, object]) -> None:
    assert put(other_tenant, memory, NEWER).status_code == 404
    assert other_tenant.put("/v1/memories/nothing", json=NEWER).status_code == 404
