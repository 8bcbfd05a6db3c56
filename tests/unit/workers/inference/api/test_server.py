from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from tests.fixtures.internal import access
from workers.inference.api.server import Worker, create_app


def test_a_worker_is_healthy_while_its_base_loads_and_until_its_engine_has_ended() -> None:
    worker = Worker(CollectorRegistry(), access())
    client = TestClient(create_app(worker))
    assert client.get("/health").status_code == 200
    engine: Any = SimpleNamespace(alive=True)
    worker.engine = engine
    assert client.get("/health").status_code == 200
    engine.alive = False
    assert client.get("/health").status_code == 503
