"""`python -m orchestrator` as a process: it rings, serves metrics, and goes down cleanly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from core.truth import memories, usage, workers
from core.truth.database import Database
from tests.fixtures.ports import accepts, free_port, wait_until
from tests.fixtures.truth import add_tenant, admit


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_does_all_its_duties_and_stops_when_told(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LATENTBANK_")}
    environment |= {
        "LATENTBANK_DATA_DIR": str(tmp_path),
        "LATENTBANK_ORCHESTRATOR__METRICS_PORT": str(port),
        "LATENTBANK_JOBS__DISPATCH_INTERVAL_SECONDS": "0.1",
        "LATENTBANK_JOBS__REAP_INTERVAL_SECONDS": "0.1",
    }
    database = Database(f"sqlite:///{tmp_path / 'truth.db'}")
    database.migrate()
    miscounted = add_tenant(database)
    with database.begin() as connection:
        usage.add(connection, miscounted.id, memories=7)
    log = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=log.open("wb"),
        start_new_session=True,
    )
    try:
        wait_until(lambda: accepts(port) or process.poll() is not None, 30, "the start of the orchestrator")
        tenant = add_tenant(database)
        (deleted, _), _ = admit(database, tenant), admit(database, tenant)
        with database.begin() as connection:
            workers.announce(connection, "worker", "distillation", "", {}, 60)
            memories.delete_memory(connection, tenant.id, deleted.id)
        queue = tmp_path / "doorbells" / "queue"
        wait_until(lambda: any(queue.iterdir()), 10, "a doorbell")
        wait_until(lambda: 'latentbank_jobs{state="cancelled"} 1.0' in scrape(port), 10, "a gauge of the truth")
        assert 'latentbank_workers{kind="distillation"} 1.0' in scrape(port)

        def purged() -> bool:
            with database.read() as connection:
                return memories.get_memory(connection, tenant.id, deleted.id).purged_at is not None

        wait_until(purged, 10, "a purge")

        def counted() -> bool:
            with database.read() as connection:
                return usage.usage_of(connection, miscounted.id).memories == 0

        wait_until(counted, 10, "a count of what a tenant uses")
        database.dispose()
        process.send_signal(number)
        assert process.wait(timeout=20) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "orchestrator is down" in log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()
