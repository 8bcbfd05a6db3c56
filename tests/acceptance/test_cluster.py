"""The same four processes on PostgreSQL, Redis and an S3 server, with two DeepSpeed ranks: only the URLs differ."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
import sqlalchemy

from core.storage.s3 import S3Store
from tests.acceptance.stack import Stack, ask, base_model, job_ended, remember, started
from tests.fixtures.s3 import S3Server
from tests.fixtures.tiny_llama import make_tiny_llama

_CONTEXT = "The blue heron eats fish. The red fox eats mice. The old owl eats moths. The grey seal eats squid."


@dataclass(frozen=True, slots=True)
class Cluster:
    stack: Stack
    store: S3Store
    tenant: httpx.Client


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, redis_url: str, s3_server: S3Server, s3_bucket: str
) -> Iterator[Cluster]:
    data_dir = tmp_path_factory.mktemp("cluster")
    base = data_dir / "tiny"
    make_tiny_llama(base)
    settings = s3_server.settings(s3_bucket, f"cluster-{secrets.token_hex(4)}")
    assert settings.access_key is not None
    assert settings.secret_key is not None
    overrides = {
        "LATENTBANK_DATABASE_URL": _fresh_database(postgres_url),
        "LATENTBANK_BROKER_URL": redis_url,
        "LATENTBANK_BASE_MODEL": str(base),
        "LATENTBANK_STORAGE__URL": settings.url,
        "LATENTBANK_STORAGE__ENDPOINT": settings.endpoint or "",
        "LATENTBANK_STORAGE__ACCESS_KEY": settings.access_key.get_secret_value(),
        "LATENTBANK_STORAGE__SECRET_KEY": settings.secret_key.get_secret_value(),
        "LATENTBANK_DISTILLATION__RANKS": "2",
        "LATENTBANK_RECIPE__STEPS": "8",
        "LATENTBANK_JOBS__GARBAGE_INTERVAL_SECONDS": "1",
    }
    with started(data_dir, overrides) as stack:
        prefix = settings.url.removeprefix(f"s3://{s3_bucket}/")
        yield Cluster(stack, S3Store(s3_bucket, prefix, settings), stack.tenant("cluster"))


def test_a_context_becomes_a_memory_that_serves_and_that_deletion_removes_everywhere(cluster: Cluster) -> None:
    tenant = cluster.tenant
    sent = remember(tenant, {"title": "Animals and what they eat", "text": _CONTEXT})
    job = job_ended(tenant, sent["job_id"], 420)
    assert job["status"] == "succeeded", (job, tenant.get(f"/v1/jobs/{sent['job_id']}/events").text)

    memory = tenant.get(f"/v1/memories/{sent['id']}").json()
    assert memory["status"] == "ready"
    assert memory["bytes"] > 0
    keys = [found.key for found in cluster.store.list("tenants")]
    assert any(key.endswith("adapter_model.safetensors") for key in keys)
    assert any(key.endswith("adapter_config.json") for key in keys)

    base = base_model(tenant)
    forced = ask(tenant, base, "What does the heron eat?", mode="force")
    assert forced["memory"]["served_by"] == sent["id"]
    assert forced["memory"]["digest"] == memory["digest"]
    by_id = ask(tenant, sent["id"], "What does the heron eat?")
    assert by_id["choices"][0]["message"] == forced["choices"][0]["message"]

    events = tenant.get(f"/v1/jobs/{sent['job_id']}/events", params={"limit": 100}).json()["data"]
    assert {"self_study", "training", "calibrating", "publishing"} <= {
        event["data"].get("phase") for event in events if event.get("data")
    }, events

    assert tenant.delete(f"/v1/memories/{sent['id']}").status_code == 200
    after = ask(tenant, base, "What does the heron eat?")
    assert after["memory"]["candidates"] == []
    _until(lambda: not list(cluster.store.list("tenants")), 60)
    _until(lambda: tenant.get(f"/v1/memories/{sent['id']}").json()["purged_at"] is not None, 60)
    assert tenant.get(f"/v1/memories/{sent['id']}").json()["status"] == "deleted"
    node_cache = cluster.stack.plan.data_dir / "node-cache"
    assert node_cache.is_dir()
    _until(lambda: not (node_cache / memory["digest"].removeprefix("sha256:")).exists(), 60)


def test_every_process_is_seen_by_a_scrape(cluster: Cluster) -> None:
    wanted = {
        "gateway": "latentbank_gateway_requests_total",
        "orchestrator": "latentbank_jobs",
        "distillation worker": "latentbank_job_seconds",
        "inference worker": "vllm:num_requests_running",
    }
    for part, name in wanted.items():
        assert name in cluster.stack.metrics(part), part


def _fresh_database(url: str) -> str:
    name = f"cluster_{secrets.token_hex(4)}"
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return str(sqlalchemy.make_url(url).set(database=name).render_as_string(hide_password=False))


def _until(condition: object, seconds: float) -> None:
    assert callable(condition)
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not come about in time"
        time.sleep(0.2)
