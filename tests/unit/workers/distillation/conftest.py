from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from core.base_model.description import BaseDescription
from core.ids import new_id
from core.metrics import DistillationMetrics
from core.settings import DistillationSettings, JobSettings, Settings
from core.storage.memory import MemoryStore
from core.truth import tenants
from core.truth.database import Database
from tests.fixtures.fake_trainer import fake_command, make_fake_base
from tests.unit.workers.distillation.bench import Bench
from workers.distillation.exports import Exports
from workers.distillation.group import TrainerGroup
from workers.distillation.worker import Distillation


@pytest.fixture
def base(tmp_path: Path) -> BaseDescription:
    return make_fake_base("fake", tmp_path / "bases")


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    return tmp_path / "pids"


@pytest.fixture
def bench(tmp_path: Path, base: BaseDescription, pids: Path) -> Iterator[Bench]:
    settings = Settings(
        data_dir=tmp_path,
        base_model="fake",
        encoder="fake",
        jobs=JobSettings(lease_seconds=20, heartbeat_seconds=0.1, max_attempts=2),
        distillation=DistillationSettings(gather_seconds=0.0),
        _env_file=None,
    )
    database = Database(settings.resolved_database_url)
    database.migrate()
    with database.begin() as connection:
        tenant = tenants.create_tenant(connection, "tenant")
    store = MemoryStore()
    group = TrainerGroup(
        lambda inbox: fake_command(inbox, pids, base.path),
        dict(os.environ),
        tmp_path / "scratch",
        silence_seconds=30,
        cancel_grace_seconds=5,
        poll_seconds=0.02,
    )
    worker = Distillation(
        settings=settings,
        worker_id=new_id("worker"),
        database=database,
        store=store,
        group=group,
        base=base,
        exports=Exports(store, base, settings.recipe, settings.encoder),
        metrics=DistillationMetrics(CollectorRegistry()),
        stopping=lambda: made.stop,
    )
    made = Bench(worker, tenant.id)
    yield made
    group.kill()
    database.dispose()
