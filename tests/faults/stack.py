"""The stack whose plugs are pulled: PostgreSQL, a broker and S3 behind faulty links, and the real processes on them."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import httpx
from pydantic import SecretStr
from sqlalchemy import create_engine, text

from core.base_model.description import BaseDescription
from core.encryption.sealed_store import open_sealed_store
from core.settings import Settings
from core.storage.object_store import ObjectStore
from core.truth import workers
from core.truth.database import Database
from tests.faults.points import Orders, Part
from tests.faults.processes import Process, marked, stopped
from tests.faults.proxy import Link, Network
from tests.faults.store_proxy import StoreProxy
from tests.fixtures.ports import free_port
from tests.fixtures.s3 import S3Server

WAIT_SECONDS = 90.0
LEASE_SECONDS = 3.0
SILENCE = "?tcp_user_timeout=2000"
"""How long a process waits for an answer of PostgreSQL, and PostgreSQL for a process in a transaction."""
MAX_ATTEMPTS = 4
ADMIN_KEY = "admin-key-of-the-test"
MASTER_KEY = base64.b64encode(bytes(range(32))).decode()
PACE = {
    "JOBS__LEASE_SECONDS": LEASE_SECONDS,
    "JOBS__HEARTBEAT_SECONDS": 0.5,
    "JOBS__MAX_ATTEMPTS": MAX_ATTEMPTS,
    "JOBS__DISPATCH_INTERVAL_SECONDS": 0.2,
    "JOBS__REAP_INTERVAL_SECONDS": 0.3,
    "JOBS__DOORBELL_TIMEOUT_SECONDS": 2,
    # A pass lists everything that all schedules before have left in the bucket.
    "JOBS__GARBAGE_INTERVAL_SECONDS": 5,
    # Longer than any admission or upload takes here, however slow its link: what is younger is not garbage yet.
    "JOBS__GARBAGE_MARGIN_SECONDS": 60,
    "DISTILLATION__PACK": 4,
    "DISTILLATION__GATHER_SECONDS": 0.1,
    "DISTILLATION__CANCEL_GRACE_SECONDS": 0.5,
    "STORAGE__TIMEOUT_SECONDS": 2,
    "STORAGE__MAX_ATTEMPTS": 2,
    "WORKER_TTL_SECONDS": 3,
    "GATEWAY__WORKER_LIST_SECONDS": 0.2,
    "GATEWAY__RESIDENCY_POLL_SECONDS": 1,
    "SERVING__SLOTS": 4,
    "SERVING__THREADS": 1,
    "SERVING__NODE_SWEEP_SECONDS": 2,
    "LOG_JSON": True,
}
_WORKERS: tuple[workers.Kind, ...] = ("distillation", "inference")


@dataclass(frozen=True, slots=True)
class Servers:
    """Addresses of the real servers, that no fault touches."""

    postgres: str
    broker: str
    s3: S3Server
    bucket: str


@dataclass(eq=False)
class Stack:
    """Each process has links to PostgreSQL and the broker, and a way to the store, of its own."""

    servers: Servers
    directory: Path
    base: BaseDescription
    network: Network
    orders: Orders
    database: Database
    store: ObjectStore
    mark: str
    environment: dict[str, str] = field(default_factory=dict)
    """What a test adds to the environment of processes started from then on."""
    stores: dict[str, StoreProxy] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    _tending: Lock = field(default_factory=Lock)

    @property
    def gateway_port(self) -> int:
        return int(self.directory.joinpath("gateway.port").read_text())

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def pids(self) -> Path:
        return self.directory / "pids"

    def link(self, server: str, name: str) -> Link:
        """The way of the process `name` to `postgres` or `broker`."""
        return self.network.links[f"{server}:{name}"]

    def links_of(self, server: str, part: Part) -> list[Link]:
        return [self.link(server, process.name) for process in self.processes.values() if process.part == part]

    def start(self, name: str, part: Part, **environment: str) -> Process:
        """Starts a process; it need not be up yet."""
        if name not in self.stores:
            for server, url in (("postgres", self.servers.postgres), ("broker", self.servers.broker)):
                address = httpx.URL(url)
                self.network.link(f"{server}:{name}", address.host, address.port or 0)
            self.stores[name] = StoreProxy(self.servers.s3.endpoint)
        process = Process(
            name,
            part,
            [sys.executable, "-m", "tests.faults.process", part, str(self.orders.directory), str(self.pids)],
            {**_without_ours(os.environ), **self._environment_of(name, part), **self.environment, **environment},
            self.directory / f"{name}.log",
        )
        self.processes[name] = process
        process.start()
        return process

    def tend(self) -> None:
        """Starts again what has ended, as the operator's supervisor of processes does."""
        with self._tending:  # clients in several threads find it out at once
            for process in list(self.processes.values()):
                if process.wanted and not process.running:
                    process.start()

    def until(self, condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Waits for the condition while it tends the processes; fails with what they said."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}\n{self.tails()}"
            self.tend()
            time.sleep(0.1)

    def up(self) -> None:
        """Waits until every process answers."""
        self.until(self.is_up, "everything is up", 90)

    def is_up(self) -> bool:
        try:
            checks = httpx.get(f"{self.gateway_url}/ready", timeout=5).json()["checks"]
        except httpx.TransportError:
            return False
        ready = all(checks[name]["ok"] for name in ("database", "object_store", "base_model"))
        wanted = {kind: sum(p.wanted and p.part == kind for p in self.processes.values()) for kind in _WORKERS}
        return ready and all(len(self.workers(kind)) >= wanted[kind] for kind in _WORKERS)

    def restart(self, *names: str) -> None:
        """Planned: asks them to end, and starts them again, in the environment that is set now."""
        for name in names:
            part = self.processes[name].part
            self.processes[name].stop()
            self.start(name, part)
        self.up()

    def workers(self, kind: workers.Kind) -> list[str]:
        """The ids of those that are announced."""
        with self.database.read() as connection:
            return [record.id for record in workers.alive(connection, kind)]

    def heal(self) -> None:
        """Ends every fault that lasts: links, stores, orders, stopped processes."""
        self.orders_heal()
        self.network.heal()
        for store in self.stores.values():
            store.heal()

    def orders_heal(self) -> None:
        for path in self.orders.directory.glob("*.order"):
            path.unlink(missing_ok=True)
        for pid in stopped(self.mark):
            os.kill(pid, signal.SIGCONT)

    def end(self) -> None:
        self.heal()
        for process in self.processes.values():
            process.end()
        for store in self.stores.values():
            store.close()
        self.database.dispose()
        for pid in marked(self.mark):
            os.kill(pid, signal.SIGKILL)

    def tails(self) -> str:
        return "\n".join(f"--- {process.name}\n{process.tail()}" for process in self.processes.values())

    def _environment_of(self, name: str, part: Part) -> dict[str, str]:
        settings = {
            "DATA_DIR": str(self.directory / "data" / part) if part == "inference" else str(self.directory / "data"),
            "DATABASE_URL": _through(self.servers.postgres, self.link("postgres", name).port) + SILENCE,
            "BROKER_URL": _through(self.servers.broker, self.link("broker", name).port)
            if part in ("orchestrator", "distillation")
            else "",
            "STORAGE__ENDPOINT": self.stores[name].url,
            "STORAGE__URL": f"s3://{self.servers.bucket}/{self.mark}",
            "STORAGE__ACCESS_KEY": self.servers.s3.access_key,
            "STORAGE__SECRET_KEY": self.servers.s3.secret_key,
            "BASE_MODEL": self.base.reference,
            "ADMIN_KEY": ADMIN_KEY,
            "MASTER_KEY": MASTER_KEY,
            "INTERNAL_TOKEN": "internal-token-of-the-test",
            "GATEWAY__PORT": str(self.gateway_port),
            "SERVING__PORT": str(free_port()),
            "ORCHESTRATOR__METRICS_PORT": "0",
            "DISTILLATION__METRICS_PORT": "0",
            **{name: str(value) for name, value in PACE.items()},
        }
        named = {f"LATENTBANK_{name}": value for name, value in settings.items()}
        return named | {"FAULTS_MARK": self.mark, "DS_ACCELERATOR": "cpu", "PYTHONUNBUFFERED": "1"}


@contextmanager
def made(servers: Servers, directory: Path, base: BaseDescription) -> Iterator[Stack]:
    """A stack with a database and a prefix of the bucket of its own; nothing is started yet."""
    mark = f"faults-{secrets.token_hex(6)}"
    postgres = _own_database(servers.postgres, mark)
    servers = Servers(postgres, servers.broker, servers.s3, servers.bucket)
    orders = Orders(directory / "orders")
    orders.directory.mkdir()
    (directory / "data").mkdir()
    for data in (directory / "data", directory / "data" / "inference"):
        data.mkdir(exist_ok=True)
        (data / "bases").symlink_to(base.path.parent)
    (directory / "gateway.port").write_text(str(free_port()))
    (directory / "pids").touch()
    settings = servers.s3.settings(servers.bucket, mark)
    database = Database(postgres)
    database.migrate()
    store = open_sealed_store(Settings(storage=settings, master_key=SecretStr(MASTER_KEY), _env_file=None), database)
    with Network() as network:
        stack = Stack(servers, directory, base, network, orders, database, store, mark)
        try:
            yield stack
        finally:
            stack.end()


def _own_database(url: str, name: str) -> str:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    return url.rpartition("/")[0] + f"/{name}"


def _through(url: str, port: int) -> str:
    """The same server by way of a link."""
    address = httpx.URL(url)
    return url.replace(f":{address.port}", f":{port}", 1) if address.port else url


def _without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("LATENTBANK_")}
