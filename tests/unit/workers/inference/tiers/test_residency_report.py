from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from core.residency import MOST_DIGESTS, RESIDENCY_PATH
from core.storage.publication import read_manifest
from tests.fixtures.internal import access, signed
from tests.unit.workers.inference.conftest import Stand
from workers.inference.api.server import Worker, create_app

TOKEN = "internal-token-of-the-test"


@pytest.fixture
def worker(stand: Stand) -> Iterator[Worker]:
    stand.engine.start()
    yield Worker(stand.registry, access(TOKEN), stand.service, stand.engine)
    stand.engine.stop()


def report(worker: Worker) -> dict[str, Any]:
    answer = TestClient(create_app(worker)).get(RESIDENCY_PATH, headers=signed(TOKEN, "", "GET", RESIDENCY_PATH))
    assert answer.status_code == 200
    return dict(answer.json())


@pytest.mark.parametrize("headers", [{}, {"X-LatentBank-Internal": "guess"}, {"X-LatentBank-Tenant": "tenant_a"}])
def test_only_the_gateway_is_told(worker: Worker, headers: dict[str, str]) -> None:
    answer = TestClient(create_app(worker)).get(RESIDENCY_PATH, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a_worker_whose_base_still_loads_is_not_ready(stand: Stand) -> None:
    loading = create_app(Worker(stand.registry, access(TOKEN)))
    assert TestClient(loading).get(RESIDENCY_PATH, headers=signed(TOKEN, "", "GET", RESIDENCY_PATH)).status_code == 503


def test_each_tier_is_reported_by_digest_the_last_used_first(worker: Worker, stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    digests = []
    for seed in range(3):
        entry = stand.publisher.publish(tenant, "Velmora", "Velmora is a town.", seed=seed)
        adapter = stand.residency.load(read_manifest(stand.publisher.store, entry.manifest_key))
        lease = stand.residency.acquire({entry.adapter_digest: adapter})
        assert lease is not None
        lease.release()
        digests.append(entry.adapter_digest)
    first, second, third = digests
    assert report(worker) == {
        "slot": [third, second],
        "ram": [third, second],
        "node_cache": [third, second, first],
        "running": 0,
        "waiting": 0,
        "capacity": 16,
    }


def test_a_report_is_bounded(stand: Stand) -> None:
    for number in range(MOST_DIGESTS + 5):
        (stand.node_cache._directory / f"{number:064x}").mkdir()
    assert len(stand.service.report(0, 0).node_cache) == MOST_DIGESTS
