"""One tenant's flood and another's single job: PostgreSQL, Redis, an orchestrator, two Celery worker processes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import make_url, select, text

from core.settings import RecipeSettings, Settings
from core.truth import tenants
from core.truth.database import Database
from core.truth.records import Job
from core.truth.tables import jobs
from core.truth.transitions import job_of
from gateway.intake import estimated_seconds
from tests.fixtures.fake_trainer import make_fake_base
from tests.fixtures.redis import running_redis
from tests.integration.distillation.stack import JOBS, Stack

WORKERS = 2
PACK = 8
JOB_SECONDS = 2
"""How long the trainer takes for a pack: well above what is lost between two packs on a loaded machine."""
FLOOD = 1000


@pytest.fixture
def cluster(tmp_path: Path, postgres_url: str) -> Iterator[Stack]:
    """A database and a broker of its own; nobody works yet."""
    server = Database(postgres_url)
    with server._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE IF EXISTS fair_shares"))
        connection.execute(text("CREATE DATABASE fair_shares"))
    server.dispose()
    url = make_url(postgres_url).set(database="fair_shares").render_as_string(hide_password=False)
    with running_redis() as redis:
        settings = Settings(
            data_dir=tmp_path,
            database_url=url,
            broker_url=redis.url,
            base_model="fake",
            encoder="fake",
            jobs=JOBS,
            _env_file=None,
        )
        base = make_fake_base("fake", settings.base_dir)
        database = Database(url)
        database.migrate()
        pids = tmp_path / "pids"
        command = ("tests.integration.distillation.supervisor", str(pids))
        environment = {
            "LATENTBANK_DATABASE_URL": url,
            "LATENTBANK_DISTILLATION__PACK": str(PACK),
            "LATENTBANK_ORCHESTRATOR__METRICS_PORT": "0",
        }
        made = Stack(settings, database, _tenant(database, "flood"), base.digest, pids, command, environment)
        yield made
        made.end()
        database.dispose()


def test_a_job_begins_within_two_job_lengths_of_another_tenants_thousand(cluster: Stack) -> None:
    cost = estimated_seconds(1, RecipeSettings())
    flood = cluster
    single = replace(flood, tenant_id=_tenant(flood.database, "single"))
    # They start while the contexts are stored.
    for words in (["orchestrator"], *[flood.command] * WORKERS):
        flood.start_process(words)
    assert len(set(flood.admit_many(f"last {JOB_SECONDS}", FLOOD, cost_estimate_seconds=cost))) == FLOOD
    assert flood.eventually(lambda: len(flood.alive()) == WORKERS), flood.log()
    assert flood.eventually(lambda: _ended(flood) > 0), flood.log()

    (job_id,) = single.admit_many("train", 1, cost_estimate_seconds=cost)
    _began_soon(single.until(job_id, "succeeded"), _jobs(flood))
    assert sum(job.state == "queued" for job in _jobs(flood)) > FLOOD / 2, "the flood is not over"


def _began_soon(job: Job, flood: list[Job]) -> None:
    """Within two lengths of the jobs that were ahead, and with at most two packs of each worker begun meanwhile."""
    assert job.started_at is not None
    meanwhile = [one for one in flood if one.started_at and job.created_at < one.started_at < job.started_at]
    assert len(meanwhile) <= 2 * WORKERS * PACK
    lengths = [
        (one.finished_at - one.started_at).total_seconds()
        for one in flood
        if one.state == "succeeded" and one.started_at and one.finished_at
    ]
    waited = (job.started_at - job.created_at).total_seconds()
    assert waited <= 2 * statistics.median(lengths)


def _tenant(database: Database, name: str) -> str:
    with database.begin() as connection:
        return tenants.create_tenant(connection, name).id


def _jobs(stack: Stack) -> list[Job]:
    with stack.database.read() as connection:
        return [job_of(row) for row in connection.execute(select(jobs).where(jobs.c.tenant_id == stack.tenant_id))]


def _ended(stack: Stack) -> int:
    return sum(job.state == "succeeded" for job in _jobs(stack))
