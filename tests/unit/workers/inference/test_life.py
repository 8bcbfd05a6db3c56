from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from core.metrics import InferenceMetrics
from core.settings import Settings
from core.truth.database import Database
from core.truth.workers import alive
from tests.fixtures.internal import access
from workers.inference.api.server import Worker
from workers.inference.life import Life

TTL = 0.3


def live(
    database: Database,
    refresh: Callable[[], None],
    seconds: float,
    data_dir: Path,
    follow: Callable[[], None] = lambda: None,
) -> set[object]:
    """Lives for so long with banks that are refreshed by `refresh`, and pins that follow the truth by `follow`; every
    expiry that was announced meanwhile."""
    registry = CollectorRegistry()
    worker = Worker(registry, access())
    description = SimpleNamespace(digest="sha256:0", name="tiny")
    parts: Any = SimpleNamespace(base=SimpleNamespace(description=description), follow=refresh)
    pins: Any = SimpleNamespace(follow=follow)
    engine: Any = SimpleNamespace(alive=True, stop=lambda: None)

    class Loaded(Life):
        def _load(self) -> None:
            worker.engine, worker.service, worker.pins = engine, parts, pins

    settings = Settings(data_dir=data_dir, worker_ttl_seconds=TTL)
    life = Loaded(worker, settings, database, InferenceMetrics(registry), lambda: None)
    seen: set[object] = set()

    async def run() -> None:
        async with life.around(FastAPI()):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                with database.read() as connection:
                    seen.update(record.expires_at for record in alive(connection, "inference"))
                await asyncio.sleep(0.02)

    asyncio.run(run())
    return seen


def test_a_bank_that_takes_its_time_does_not_keep_the_worker_from_announcing_itself(
    database: Database, tmp_path: Path
) -> None:
    free = Event()

    def slow() -> None:
        free.wait(10)

    try:
        assert len(live(database, slow, 1.0, tmp_path)) >= 2
    finally:
        free.set()
    with database.read() as connection:
        assert alive(connection, "inference") == []


@pytest.mark.parametrize("problem", [OSError("disk full"), RuntimeError("odd")])
def test_no_failure_ends_the_heartbeats(database: Database, tmp_path: Path, problem: Exception) -> None:
    beats = []

    def failing() -> None:
        beats.append(problem)
        raise problem

    assert len(live(database, failing, 1.0, tmp_path)) >= 2
    assert len(beats) >= 2


def test_what_is_wrong_with_a_pin_keeps_no_deletion_from_being_followed(database: Database, tmp_path: Path) -> None:
    beats: list[int] = []

    def failing() -> None:
        raise RuntimeError("odd")

    live(database, lambda: beats.append(1), 0.5, tmp_path, follow=failing)
    assert beats
