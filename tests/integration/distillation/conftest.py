from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import Settings
from core.truth import tenants
from core.truth.database import Database
from tests.fixtures.fake_trainer import make_fake_base
from tests.integration.distillation.stack import JOBS, Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """The embedded stores, and supervisors whose group is the fake trainer."""
    settings = Settings(data_dir=tmp_path, base_model="fake", encoder="fake", jobs=JOBS, _env_file=None)
    base = make_fake_base("fake", settings.base_dir)
    database = Database(settings.resolved_database_url)
    database.migrate()
    with database.begin() as connection:
        tenant = tenants.create_tenant(connection, "tenant")
    pids = tmp_path / "pids"
    command = ("tests.integration.distillation.supervisor", str(pids))
    made = Stack(settings, database, tenant.id, base.digest, pids, command)
    yield made
    made.end()
    database.dispose()
