from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from core.base_model.description import directory_of
from core.errors import StorageError
from core.truth.workers import withdraw
from tests.integration.gateway.conftest import BASE, Gateway, write_tiny_base
from tests.integration.gateway.inference_stand_in import StandIn
from tests.integration.gateway.servers import wait_until


def test_health_and_readiness(gateway: Gateway, inference: StandIn) -> None:
    with gateway.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        assert set(ready.json()["checks"]) == {"database", "object_store", "base_model", "inference"}


def test_readiness_names_what_is_missing(gateway: Gateway, inference: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StorageError("secret endpoint")

    with gateway.database.begin() as connection:
        withdraw(connection, "worker_stand_in")
    monkeypatch.setattr(gateway.services.store, "check", fail)
    monkeypatch.setattr(gateway.services.base, "_base", None)
    with gateway.client() as client:
        answer = client.get("/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    checks = answer.json()["checks"]
    assert {name for name, check in checks.items() if not check["ok"]} == {"object_store", "base_model", "inference"}
    assert "secret" not in answer.text


def test_a_database_that_is_away_is_a_503(
    gateway: Gateway, tenant: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("select secret", {}, Exception("away"))

    monkeypatch.setattr("gateway.routes.memories.get_memory", fail)
    answer = tenant.get("/v1/memories/mem_aaaaaaaaaaaaaaaaaaaaaaaaaa")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "Retry-After" in answer.headers
    assert "secret" not in answer.text


def test_the_openapi_document_declares_what_the_routes_read_by_hand(gateway: Gateway) -> None:
    document = gateway.declared.document
    post = document["paths"]["/v1/memories"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert [parameter["name"] for parameter in post["parameters"]] == ["Idempotency-Key"]
    assert post["security"] == [{"TenantKey": ["ingest"]}]
    assert document["paths"]["/v1/tenants"]["post"]["security"] == [{"AdminKey": []}]
    assert "422" not in str(document["paths"])
    good = {"title": "T", "text": "a"}
    assert gateway.declared.problems(schema, good) == []
    for bad in ({}, {**good, "messages": []}, {"title": "", "text": "a"}, {"title": 1, "text": "a"}):
        assert gateway.declared.problems(schema, bad) or not bad.get("title"), bad


def test_every_reference_of_the_openapi_document_leads_somewhere(gateway: Gateway) -> None:
    schemas = gateway.declared.document["components"]["schemas"]
    pending: list[object] = [gateway.declared.document]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            reference = part.get("$ref")
            assert reference is None or str(reference).removeprefix("#/components/schemas/") in schemas
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)


def test_the_process_serves_until_sigterm_without_torch(tmp_path: Path, free_port: int) -> None:
    write_tiny_base(directory_of(BASE, tmp_path / "bases"))
    environment = {
        "PATH": "/usr/bin:/bin",
        "LATENTBANK_DATA_DIR": str(tmp_path),
        "LATENTBANK_BASE_MODEL": BASE,
        "LATENTBANK_GATEWAY__PORT": str(free_port),
        "LATENTBANK_ADMIN_KEY": "k",
    }
    # atexit runs only where the process ends by itself.
    code = (
        "import sys, runpy, atexit;"
        "atexit.register(lambda: print('torch' in sys.modules, 'transformers' in sys.modules));"
        "runpy.run_module('gateway', run_name='__main__')"
    )
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: _healthy(free_port), 30)
        process.send_signal(signal.SIGTERM)
        out, logs = process.communicate(timeout=20)
    finally:
        process.kill()
    assert out.strip() == "False False"
    assert '"process": "gateway"' in logs
    assert process.returncode == 0


def test_a_process_that_is_to_stop_leaves_its_balancer_before_it_refuses_anybody(
    tmp_path: Path, free_port: int
) -> None:
    write_tiny_base(directory_of(BASE, tmp_path / "bases"))
    environment = {
        "PATH": "/usr/bin:/bin",
        "LATENTBANK_DATA_DIR": str(tmp_path),
        "LATENTBANK_BASE_MODEL": BASE,
        "LATENTBANK_GATEWAY__PORT": str(free_port),
        "LATENTBANK_GATEWAY__DRAIN_SECONDS": "600",
    }
    command = [sys.executable, "-m", "gateway"]
    with subprocess.Popen(
        command, env=environment, cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: _healthy(free_port), 60)
            with httpx.Client(base_url=f"http://127.0.0.1:{free_port}", trust_env=False, timeout=20) as client:
                assert "connection" not in client.get("/health").headers
                assert "staying" not in client.get("/ready").json()["checks"]
                process.send_signal(signal.SIGTERM)
                wait_until(lambda: "staying" in client.get("/ready").json()["checks"], 20)
                leaving = client.get("/ready")
                assert leaving.status_code == 503
                assert "about to stop" in leaving.json()["error"]["message"]
                # Whoever still comes is answered, and told to come by another connection.
                late = client.get("/health")
                assert (late.status_code, late.headers["connection"]) == (200, "close")
                process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
