from __future__ import annotations

import json
import logging
from dataclasses import replace

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from core.ids import new_id
from core.logs import configure_logs
from core.metrics import GatewayMetrics
from gateway.app import create_app
from tests.integration.gateway.conftest import ADMIN_KEY, Gateway
from tests.integration.gateway.inference_stand_in import StandIn
from tests.integration.gateway.servers import RunningServer

TEXT = {"title": "Harbour", "text": "The harbour opens at six."}
TENANT_ROUTES = [
    ("POST", "/v1/memories"),
    ("GET", "/v1/memories"),
    ("GET", f"/v1/memories/{new_id('mem')}"),
    ("DELETE", f"/v1/memories/{new_id('mem')}"),
    ("GET", "/v1/jobs"),
    ("GET", f"/v1/jobs/{new_id('job')}"),
    ("GET", f"/v1/jobs/{new_id('job')}/events"),
    ("POST", f"/v1/jobs/{new_id('job')}/cancel"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
]
ADMIN_ROUTES = [("POST", "/v1/tenants"), ("GET", "/v1/tenants")]


@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer lb_unknown", "Basic bGI6", "lb_bare", "Bearer \u00fc", f"Bearer {'x' * 9000}"],
)
def test_every_route_of_tenants_and_of_the_admin_needs_a_key(authorization: str | None, gateway: Gateway) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    with gateway.client() as client:
        for method, path in TENANT_ROUTES + ADMIN_ROUTES:
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path)
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_tenants_key_does_not_open_the_admins_routes(gateway: Gateway, tenant: httpx.Client) -> None:
    for method, path in ADMIN_ROUTES:
        answer = tenant.request(method, path, json={"name": "mine"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")


def test_a_gateway_without_an_admin_key_lets_nobody_be_admin(gateway: Gateway) -> None:
    settings = gateway.services.settings.model_copy(update={"admin_key": None})
    app = create_app(replace(gateway.services, settings=settings, metrics=GatewayMetrics(CollectorRegistry())))
    with RunningServer(uvicorn.Config(app, log_config=None, lifespan="off")) as server:
        for key in ("None", "nothing", ADMIN_KEY):
            answer = httpx.get(f"{server.url}/v1/tenants", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
            assert answer.status_code == 401


def test_another_tenants_ids_are_not_found_and_stay_as_they_are(
    gateway: Gateway, tenant: httpx.Client, other_tenant: httpx.Client
) -> None:
    memory = tenant.post("/v1/memories", json=TEXT).json()
    job = tenant.get(f"/v1/jobs/{memory['job_id']}").json()
    theirs = [
        ("GET", f"/v1/memories/{memory['id']}"),
        ("DELETE", f"/v1/memories/{memory['id']}"),
        ("GET", f"/v1/jobs/{job['id']}"),
        ("GET", f"/v1/jobs/{job['id']}/events"),
        ("POST", f"/v1/jobs/{job['id']}/cancel"),
    ]
    for method, path in theirs:
        theirs_answer = other_tenant.request(method, path)
        nobodys = path.replace(memory["id"], new_id("mem")).replace(job["id"], new_id("job"))
        nobodys_answer = other_tenant.request(method, nobodys)
        assert theirs_answer.status_code == nobodys_answer.status_code == 404, (method, path)
        assert theirs_answer.json()["error"]["code"] == nobodys_answer.json()["error"]["code"] == "not_found"
    stream = other_tenant.get(f"/v1/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"})
    assert stream.status_code == 404

    assert other_tenant.get("/v1/memories").json()["data"] == []
    assert other_tenant.get("/v1/jobs", params={"memory_id": memory["id"]}).json()["data"] == []
    assert other_tenant.get("/v1/memories", params={"after": memory["id"]}).status_code == 400
    assert tenant.get(f"/v1/memories/{memory['id']}").json() == memory
    assert tenant.get(f"/v1/jobs/{job['id']}").json() == job


@pytest.mark.parametrize(
    "text", ["x", "mem_", "..%2F..%2Fetc", "%00", "mem_" + "a" * 5000, "*", "'; drop table jobs --"]
)
def test_what_is_no_id_is_not_found(text: str, gateway: Gateway, tenant: httpx.Client) -> None:
    for path in (f"/v1/memories/{text}", f"/v1/jobs/{text}", f"/v1/jobs/{text}/events"):
        assert tenant.get(path).status_code == 404


def test_the_tenant_is_told_to_the_worker_by_the_key_and_by_nothing_else(
    gateway: Gateway, tenant: httpx.Client, inference: StandIn
) -> None:
    question = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tenant_id": "tenant_other"}
    forged = {"X-LatentBank-Tenant": "tenant_other", "X-LatentBank-Internal": "guess"}

    answer = tenant.post("/v1/chat/completions", json=question, headers=forged).json()

    assert answer["stand_in"]["of"].startswith("tenant_")
    assert answer["stand_in"]["of"] != "tenant_other"
    assert "authorization" not in inference.requests[0]["headers"]


def test_unknown_addresses_and_methods_answer_in_the_same_shape(gateway: Gateway, tenant: httpx.Client) -> None:
    for method, path, status, code in [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/memories/", 404, "not_found"),
        ("PUT", "/v1/memories", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("PATCH", "/health", 405, "method_not_allowed"),
    ]:
        answer = tenant.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), path
    assert tenant.put("/v1/memories").headers["Allow"] == "GET, POST"
    assert tenant.patch("/v1/memories/x").headers["Allow"] == "DELETE, GET, PUT"


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/memories?limit=0", "limit"),
        ("/v1/memories?limit=101", "limit"),
        ("/v1/memories?limit=ten", "limit"),
        ("/v1/memories?after=mem_aaaaaaaaaaaaaaaaaaaaaaaaaa", "after"),
        ("/v1/memories?include_deleted=perhaps", "include_deleted"),
        ("/v1/jobs?status=happy", "status"),
        ("/v1/jobs?after=%00", "after"),
    ],
)
def test_wrong_parameters_are_named(path: str, param: str, gateway: Gateway, tenant: httpx.Client) -> None:
    answer = tenant.get(path)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_request_id_comes_back_and_goes_on_to_the_worker(
    gateway: Gateway, tenant: httpx.Client, inference: StandIn
) -> None:
    question = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    answer = tenant.post("/v1/chat/completions", json=question, headers={"X-Request-Id": "trace-7"})
    assert answer.headers["X-Request-Id"] == "trace-7"
    assert inference.requests[0]["headers"]["x-request-id"] == "trace-7"
    assert tenant.get("/health", headers={"X-Request-Id": "a b"}).headers["X-Request-Id"].startswith("req_")


def test_logs_carry_ids_and_neither_keys_nor_texts(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    key = gateway.new_tenant("harbour")
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logs("gateway", gateway.services.settings)
    root.handlers[:] = [caplog.handler]
    caplog.handler.setFormatter(logging.Formatter("%(message)s"))
    try:
        with gateway.client(key) as client:
            client.post("/v1/memories", json=TEXT, headers={"X-Request-Id": "trace-8"})
            client.post("/v1/memories", content=b"{" + json.dumps(TEXT).encode())
    finally:
        root.handlers[:] = before
        root.setLevel(level)

    lines = caplog.text
    assert "trace-8" in lines
    assert "tenant_" in lines
    assert key not in lines
    assert "harbour opens" not in lines


def test_metrics_name_routes_by_template_and_no_ids(gateway: Gateway, tenant: httpx.Client) -> None:
    memory = tenant.post("/v1/memories", json=TEXT).json()
    tenant.get(f"/v1/memories/{memory['id']}")
    tenant.get("/v1/nothing/at/all")
    with gateway.client() as anyone:
        text = anyone.get("/metrics").text
    assert 'requests_total{method="GET",route="/v1/memories/{memory_id}",status="200"}' in text
    assert 'requests_total{method="GET",route="unmatched",status="404"}' in text
    assert memory["id"] not in text
    assert "at/all" not in text
