"""Every route of a worker that answers for a tenant, asked without the gateway's word, and for another tenant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from core.ids import new_id
from core.internal import TENANT_HEADER
from core.residency import RESIDENCY_PATH
from tests.fixtures.internal import access, signed
from tests.unit.workers.inference.conftest import Stand
from workers.inference.api.server import Worker, create_app

TOKEN = "internal"
PLANT = "zyzzyva"
TEXT = "Velmora is a town."
PUBLIC = {"/health", "/ready", "/metrics"}
OF_TENANT = {
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name:path}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
}


@pytest.fixture
def client(stand: Stand) -> Iterator[TestClient]:
    stand.engine.start()
    yield TestClient(create_app(Worker(stand.registry, access(TOKEN), stand.service, stand.engine)))
    stand.engine.stop()


def ask(client: TestClient, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
    return client.request(method, path, content=payload(body), headers=headers)


def payload(body: Any) -> bytes:
    return b"" if body is None else json.dumps(body).encode()


def questions(stand: Stand, memory_id: str) -> list[tuple[str, str, Any]]:
    """What names a memory, by every route that can."""
    base, words = stand.base.description.name, [{"role": "user", "content": "Where is Velmora?"}]
    bodies: list[dict[str, Any]] = [
        {"model": memory_id},
        {"model": base, "memory": {"ids": [memory_id]}},
        {"model": base, "memory": {"ids": [memory_id], "mode": "force"}},
    ]
    return [
        ("GET", f"/v1/models/{memory_id}", None),
        *(("POST", "/v1/chat/completions", {**body, "messages": words, "max_tokens": 2}) for body in bodies),
        *(("POST", "/v1/completions", {**body, "prompt": "Where?", "max_tokens": 2}) for body in bodies),
    ]


def test_a_route_is_public_or_of_a_tenant_or_of_the_gateway(client: TestClient) -> None:
    app: Any = client.app
    routes = {(next(iter(route.methods)), route.path) for route in app.routes if isinstance(route, APIRoute)}
    assert routes == {("GET", path) for path in PUBLIC | {RESIDENCY_PATH}} | OF_TENANT


def test_without_the_gateways_word_nothing_is_answered(stand: Stand, client: TestClient) -> None:
    tenant = stand.publisher.tenant()
    memory_id = stand.publisher.publish(tenant, PLANT, TEXT, seed=1).memory_id
    for method, path, body in [
        *questions(stand, memory_id),
        ("GET", "/v1/models", None),
        ("GET", RESIDENCY_PATH, None),
    ]:
        good = signed(TOKEN, tenant, method, path, payload(body))
        other_tenant = {**good, TENANT_HEADER: stand.publisher.tenant()}
        for headers in (
            {TENANT_HEADER: tenant},
            {TENANT_HEADER: tenant, "Authorization": "Bearer internal"},
            signed("a guess", tenant, method, path, payload(body)),
            signed(TOKEN, tenant, method, "/v1/elsewhere", payload(body)),
            other_tenant,
        ):
            answer = ask(client, method, path, body, headers)
            assert answer.status_code == 401, (method, path, headers)
            assert PLANT not in answer.text
        if path != RESIDENCY_PATH:
            for nobody in ("", "tenant_x", "../" + tenant, tenant.upper()):
                headers = signed(TOKEN, nobody, method, path, payload(body))
                assert ask(client, method, path, body, headers).status_code == 401, (method, path, nobody)


def test_another_tenants_memory_is_answered_for_as_one_that_nobody_has(stand: Stand, client: TestClient) -> None:
    ours, theirs = stand.publisher.tenant(), stand.publisher.tenant(PLANT)
    memory_id = stand.publisher.publish(theirs, PLANT, f"{PLANT}. {TEXT}", seed=1).memory_id
    nobodys = new_id("mem")
    for asked, same in zip(questions(stand, memory_id), questions(stand, nobodys), strict=True):
        answer, expected = (
            ask(client, method, path, body, signed(TOKEN, ours, method, path, payload(body)))
            for method, path, body in (asked, same)
        )
        assert answer.status_code == expected.status_code == 404, (asked, answer.text)
        assert answer.text.replace(memory_id, nobodys) == expected.text
    listed = ask(client, "GET", "/v1/models", None, signed(TOKEN, ours, "GET", "/v1/models"))
    assert [card["id"] for card in listed.json()["data"]] == [stand.base.description.name]
    mine = ask(client, "GET", "/v1/models", None, signed(TOKEN, theirs, "GET", "/v1/models"))
    assert memory_id in mine.text


def test_a_tenant_that_the_truth_does_not_know_is_not_found(stand: Stand, client: TestClient) -> None:
    headers = signed(TOKEN, new_id("tenant"), "GET", "/v1/models")
    assert ask(client, "GET", "/v1/models", None, headers).status_code == 404
