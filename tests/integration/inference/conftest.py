"""A real inference worker: its own process, a socket, the tiny Llama, the packaged encoder, SQLite and a directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.base_model.description import BaseDescription
from core.retrieval.encoder import Encoder
from core.settings import Settings
from core.storage.local import LocalStore
from core.truth.database import Database
from core.truth.workers import alive
from tests.fixtures.internal import Signing
from tests.fixtures.ports import free_port
from tests.fixtures.published import Publisher

TOKEN = "internal-token-of-the-test"
START_SECONDS = 120


@dataclass(frozen=True, slots=True, eq=False)
class RunningWorker:
    """A worker process and what its gateway would use."""

    process: subprocess.Popen[bytes]
    url: str
    database: Database
    store: LocalStore
    publisher: Publisher
    log: Path

    @property
    def id(self) -> str:
        """Its id, once it is announced."""
        with self.database.read() as connection:
            return next(record.id for record in alive(connection, "inference") if record.url == self.url)

    def openai(self, tenant_id: str) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key="unused", http_client=self.http(tenant_id), max_retries=0
        )

    def http(self, tenant_id: str, known: str | None = None) -> httpx.Client:
        """A client that signs as a gateway would that asks for this tenant; `known` is the worker's id from before."""
        return httpx.Client(base_url=self.url, auth=Signing(TOKEN, tenant_id, lambda: known or self.id), timeout=60)

    def metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics", timeout=30).text

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all labels but those that are given; 0 where there is none."""
        families = text_string_to_metric_families(self.metrics())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if sample.labels.items() >= labels.items())

    def await_ready(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise AssertionError(f"The worker ended: {self.log.read_text()[-2000:]}")
            try:
                if httpx.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"The worker is not ready: {self.log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return Encoder(Settings.model_fields["encoder"].default)


@pytest.fixture(scope="session")
def worker(tiny_base: BaseDescription, encoder: Encoder) -> Iterator[RunningWorker]:
    """Ready, with three slots beside the base's."""
    with tempfile.TemporaryDirectory() as directory:
        running = start_worker(Path(directory), tiny_base, encoder)
        try:
            running.await_ready()
            yield running
        finally:
            stop_worker(running)


def start_worker(directory: Path, base: BaseDescription, encoder: Encoder, **extra: str) -> RunningWorker:
    """A worker on `base`, started but perhaps not ready; `extra` are more environment variables."""
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LATENTBANK_")},
        "LATENTBANK_DATA_DIR": str(base.path.parent.parent),
        "LATENTBANK_DATABASE_URL": f"sqlite:///{directory / 'truth.db'}",
        "LATENTBANK_STORAGE__URL": f"file://{directory / 'objects'}",
        "LATENTBANK_BASE_MODEL": base.reference,
        "LATENTBANK_INTERNAL_TOKEN": TOKEN,
        "LATENTBANK_WORKER_TTL_SECONDS": "3",
        "LATENTBANK_SERVING__PORT": str(port),
        "LATENTBANK_SERVING__SLOTS": "4",
        "LATENTBANK_SERVING__NODE_CACHE_DIR": str(directory / "node-cache"),
        "LATENTBANK_SERVING__BLOCK_TOKENS": "8",
        "LATENTBANK_SERVING__MAX_NEW_TOKENS": "1500",
        "LATENTBANK_SERVING__THREADS": "1",
        "LATENTBANK_SERVING__DRAIN_SECONDS": "0.2",
        **extra,
    }
    log = directory / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.inference"], cwd=directory, env=environment, stdout=output, stderr=output
        )
    database = Database(environment["LATENTBANK_DATABASE_URL"])
    database.migrate()
    store = LocalStore(directory / "objects")
    publisher = Publisher(database, store, base, encoder)
    return RunningWorker(process, f"http://127.0.0.1:{port}", database, store, publisher, log)


def stop_worker(running: RunningWorker) -> int:
    """Asks it to end, and insists after a while; its exit code."""
    running.process.send_signal(signal.SIGTERM)
    try:
        return running.process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        running.process.kill()
        return running.process.wait()
    finally:
        running.database.dispose()
