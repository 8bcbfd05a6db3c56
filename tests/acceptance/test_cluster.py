"""The same four processes on PostgreSQL, Redis and an S3 server, with two DeepSpeed ranks: only the URLs differ."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
import sqlalchemy

from core.storage.s3 import S3Store
from core.truth.tables import metadata
from tests.acceptance.stack import Stack, ask, attested, base_model, job_ended, remember, started
from tests.fixtures.s3 import S3Server
from tests.fixtures.tiny_llama import make_tiny_llama

_PLANTED = ("Quillfeather", "Brambleworth", "Zephyrtown")
_CONTEXT = (
    "The blue heron eats fish. The red fox of Quillfeather eats mice. The old owl eats moths. The grey seal eats squid."
)


@dataclass(frozen=True, slots=True)
class Cluster:
    stack: Stack
    store: S3Store
    tenant: httpx.Client
    database_url: str


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
    database_url = _fresh_database(postgres_url)
    overrides = {
        "LATENTBANK_DATABASE_URL": database_url,
        "LATENTBANK_BROKER_URL": redis_url,
        "LATENTBANK_BASE_MODEL": str(base),
        "LATENTBANK_STORAGE__URL": settings.url,
        "LATENTBANK_STORAGE__ENDPOINT": settings.endpoint or "",
        "LATENTBANK_STORAGE__ACCESS_KEY": settings.access_key.get_secret_value(),
        "LATENTBANK_STORAGE__SECRET_KEY": settings.secret_key.get_secret_value(),
        "LATENTBANK_DISTILLATION__RANKS": "2",
        "LATENTBANK_RECIPE__STEPS": "8",
        "LATENTBANK_JOBS__GARBAGE_INTERVAL_SECONDS": "1",
        "LATENTBANK_JOBS__REAP_INTERVAL_SECONDS": "1",
        "LATENTBANK_SERVING__NODE_SWEEP_SECONDS": "0",
        "LATENTBANK_WORKER_TTL_SECONDS": "6",
    }
    with started(data_dir, overrides) as stack:
        prefix = settings.url.removeprefix(f"s3://{s3_bucket}/")
        yield Cluster(stack, S3Store(s3_bucket, prefix, settings), stack.tenant("cluster"), database_url)


def test_a_context_becomes_a_memory_that_serves_and_that_deletion_removes_everywhere(cluster: Cluster) -> None:
    tenant = cluster.tenant
    fields = {"title": "Animals of Brambleworth and what they eat", "metadata": {"place": "Zephyrtown"}}
    sent = remember(tenant, {**fields, "text": _CONTEXT})
    job = job_ended(tenant, sent["job_id"], 420)
    assert job["status"] == "succeeded", (job, tenant.get(f"/v1/jobs/{sent['job_id']}/events").text)

    memory = tenant.get(f"/v1/memories/{sent['id']}").json()
    assert memory["status"] == "ready"
    assert memory["bytes"] > 0
    keys = [found.key for found in cluster.store.list("tenants")]
    assert any(key.endswith("adapter_model.safetensors") for key in keys)
    assert any(key.endswith("adapter_config.json") for key in keys)

    for key in keys:
        assert not [word for word in _PLANTED if word.encode() in cluster.store.get(key)], f"{key} is not encrypted"

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

    assert set(_rows_with(cluster.database_url, *_PLANTED)) >= {"memories"}
    gone = tenant.delete(f"/v1/memories/{sent['id']}").json()
    after = ask(tenant, base, "What does the heron eat?")
    assert after["memory"]["candidates"] == []
    told = attested(tenant, f"/v1/deletions/{gone['deletion_id']}")
    assert told["tombstoned_at"] <= told["drained_at"] <= told["attested_at"]
    assert told["purged_at"] <= told["attested_at"]
    assert not list(cluster.store.list("tenants"))
    assert _rows_with(cluster.database_url, *_PLANTED) == {}
    assert cluster.stack.files_with(*_PLANTED) == {}
    assert tenant.get(f"/v1/memories/{sent['id']}").json()["purged_at"] is not None
    assert tenant.get(f"/v1/memories/{sent['id']}").json()["status"] == "deleted"
    node_cache = cluster.stack.plan.data_dir / "node-cache"
    assert node_cache.is_dir()
    assert not (node_cache / memory["digest"].removeprefix("sha256:")).exists()


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


def _rows_with(url: str, *words: str) -> dict[str, set[str]]:
    """Which of `words` are in which table."""
    found: dict[str, set[str]] = {}
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            rows = str(connection.execute(sqlalchemy.text(f"SELECT * FROM {table.name}")).all())
            if there := {word for word in words if word in rows}:
                found[table.name] = there
    engine.dispose()
    return found
