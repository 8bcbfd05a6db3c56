"""A gateway on a free port over SQLite and a local store, with a tiny tokenizer where a base model would be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from sqlalchemy import delete, func, select
from tokenizers import Tokenizer, models, pre_tokenizers

from core.base_model.description import BaseDescription, directory_of, write_description
from core.settings import GatewaySettings, LimitSettings, Settings
from core.truth.database import Database
from core.truth.tables import idempotency_keys, job_events, jobs, memories
from core.truth.workers import announce
from gateway.__main__ import server_config
from gateway.services import Services, open_services
from tests.fixtures.truth import EMPTIED
from tests.integration.gateway.declared import Declared
from tests.integration.gateway.inference_stand_in import StandIn
from tests.integration.gateway.servers import RunningServer, wait_until

ADMIN_KEY = "admin-key-of-the-tests"
TOKEN = "internal-token-of-the-tests"
BASE = "tiny"


@dataclass(frozen=True, slots=True)
class Gateway:
    url: str
    services: Services
    declared: Declared

    def client(self, key: str | None = None) -> httpx.Client:
        """A client whose every answer is held against the OpenAPI document."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        hooks: dict[str, list[Callable[..., Any]]] = {"response": [self.declared.check]}
        return httpx.Client(base_url=self.url, headers=headers, event_hooks=hooks, timeout=20, trust_env=False)

    @property
    def database(self) -> Database:
        return self.services.database

    def new_tenant(self, name: str) -> str:
        """A new tenant's key."""
        with self.client(ADMIN_KEY) as client:
            return str(client.post("/v1/tenants", json={"name": name}).raise_for_status().json()["api_key"])

    def left(self) -> dict[str, int]:
        """Rows and objects there are."""
        with self.database.read() as connection:
            rows = {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (memories, jobs, job_events, idempotency_keys)
            }
        return {**rows, "objects": sum(1 for _ in self.services.store.list(""))}


@pytest.fixture(scope="package", autouse=True)
def plain_tracebacks() -> Iterator[None]:
    """As in production; structlog's default renders the locals of every frame, for seconds on a busy machine."""
    processors = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors[:-1], renderer])
    yield
    structlog.configure(processors=processors)


@pytest.fixture(scope="package")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    data = tmp_path_factory.mktemp("gateway") / "data"
    write_tiny_base(directory_of(BASE, data / "bases"))
    return Settings(
        _env_file=None,
        data_dir=data,
        database_url="",
        base_model=BASE,
        admin_key=ADMIN_KEY,
        internal_token=TOKEN,
        limits=LimitSettings(body_bytes=64 * 1024, context_tokens=200, backlog_per_tenant=5, metadata_bytes=1024),
        gateway=GatewaySettings(event_poll_seconds=0.02, residency_poll_seconds=0.05, worker_list_seconds=0),
    )


@pytest.fixture(scope="package")
def running_gateway(settings: Settings) -> Iterator[Gateway]:
    services = open_services(settings)
    wait_until(lambda: _prepared(services))
    config = server_config(settings, services)
    with RunningServer(config) as server:
        document = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()
        yield Gateway(server.url, services, Declared(document))


@pytest.fixture
def gateway(running_gateway: Gateway) -> Gateway:
    """The package's gateway over an empty database and an empty store."""
    with running_gateway.database.begin() as connection:
        for table in reversed(EMPTIED):
            connection.execute(delete(table))
    store = running_gateway.services.store
    for stored in list(store.list("")):
        store.delete(stored.key)
    running_gateway.services.stopping.clear()
    return running_gateway


@pytest.fixture
def tenant(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.client(gateway.new_tenant("harbour")) as client:
        yield client


@pytest.fixture
def other_tenant(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.client(gateway.new_tenant("bakery")) as client:
        yield client


@pytest.fixture
def inference(gateway: Gateway) -> Iterator[StandIn]:
    """An inference worker that is announced to the gateway."""
    stand_in = StandIn(TOKEN)
    with RunningServer(uvicorn.Config(stand_in.app, log_config=None)) as server:
        announce_worker(gateway, "worker_stand_in", server.url)
        yield stand_in


def announce_worker(gateway: Gateway, worker_id: str, url: str) -> None:
    with gateway.database.begin() as connection:
        announce(connection, worker_id, "inference", url, {"name": BASE}, 60)


def write_tiny_base(directory: Path) -> None:
    """A prepared base's `base.json` and tokenizer: one token per word."""
    directory.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    write_description(BaseDescription(BASE, BASE, str(directory), "sha256:" + "0" * 64, 2048, (1, 2)))
    assert json.loads((directory / "base.json").read_text())["name"] == BASE


def _prepared(services: Services) -> bool:
    try:
        return bool(services.base.base)
    except Exception:  # noqa: BLE001 - not yet
        return False
