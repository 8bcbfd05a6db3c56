"""Doorbells over every real broker: rung by the dispatcher, heard by a real Celery worker, 0, 1, 2 and N times."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from core.errors import Unavailable
from core.jobs.doorbells import QUEUE
from core.metrics import OrchestratorMetrics
from core.settings import JobSettings, Settings
from core.truth import jobs, workers
from core.truth.database import Database
from orchestrator.celery_app import CeleryDoorbells, create_app
from orchestrator.dispatcher import Dispatcher
from tests.fixtures.ports import free_port, wait_until
from tests.fixtures.truth import add_tenant, admit

_HEAR_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Street:
    """A broker, a database, and the house at its end."""

    settings: Settings
    database: Database
    bells: CeleryDoorbells
    log: Path

    def heard(self, job_id: str) -> list[str]:
        """What became of each delivery of this job's doorbell."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split(" ", 1)[1] for line in lines if line.startswith(job_id)]

    def await_deliveries(self, job_id: str, count: int) -> list[str]:
        wait_until(lambda: len(self.heard(job_id)) >= count, _HEAR_SECONDS, f"delivery {count} of {job_id}")
        return self.heard(job_id)

    def listen(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.integration.orchestrator.listener",
                self.settings.resolved_broker_url,
                str(self.settings.database_url),
                str(self.settings.data_dir),
                str(self.log),
            ],
            stdout=(self.log.parent / "listener.log").open("ab"),
            stderr=subprocess.STDOUT,
        )


@pytest.fixture(scope="module", params=["filesystem", "redis", "rabbitmq"])
def street(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    directory = tmp_path_factory.mktemp(request.param)
    broker = "filesystem://" if request.param == "filesystem" else request.getfixturevalue(f"{request.param}_url")
    if request.param == "redis":
        broker = broker.removesuffix("/0") + "/7"  # a database of our own
    settings = Settings(data_dir=directory, database_url=f"sqlite:///{directory / 'truth.db'}", broker_url=broker)
    database = Database(settings.database_url)
    database.migrate()
    app = create_app(settings)
    bells = CeleryDoorbells(app)
    with app.connection_for_write() as connection:
        app.amqp.queues[QUEUE].bind(connection).declare()
        app.amqp.queues[QUEUE].bind(connection).purge()
    yield Street(settings, database, bells, directory / "heard")
    bells.close()
    database.dispose()


@pytest.fixture(scope="module")
def listener(street: Street) -> Iterator[subprocess.Popen[bytes]]:
    worker = street.listen()
    yield worker
    worker.terminate()
    assert worker.wait(timeout=30) == 0, (street.log.parent / "listener.log").read_text()


def dispatcher(street: Street, **changes: float) -> Dispatcher:
    with street.database.begin() as connection:
        for name in ("listener", "another"):
            workers.announce(connection, name, "distillation", "", {}, 600)
    settings = JobSettings(**{"doorbell_timeout_seconds": 600, **changes})  # type: ignore[arg-type]
    return Dispatcher(street.database, street.bells, settings, OrchestratorMetrics(CollectorRegistry()))


def test_a_doorbell_is_heard_and_answered(street: Street, listener: subprocess.Popen[bytes]) -> None:
    tenant = add_tenant(street.database)
    _, job = admit(street.database, tenant)
    assert dispatcher(street).run_once().dispatched == (job.id,)
    assert street.await_deliveries(job.id, 1) == ["claimed"]
    with street.database.read() as connection:
        assert jobs.get_job(connection, tenant.id, job.id).worker_id == "listener"


def test_a_doubled_doorbell_changes_nothing(street: Street, listener: subprocess.Popen[bytes]) -> None:
    tenant = add_tenant(street.database)
    _, job = admit(street.database, tenant)
    dispatcher(street).run_once()
    for _ in range(3):
        street.bells.ring(job.id)
    assert sorted(street.await_deliveries(job.id, 4)) == ["claimed", "too late", "too late", "too late"]
    with street.database.read() as connection:
        assert jobs.get_job(connection, tenant.id, job.id).epoch == 1


def test_a_lost_doorbell_is_rung_again(street: Street, listener: subprocess.Popen[bytes]) -> None:
    _, job = admit(street.database, add_tenant(street.database))
    with street.database.begin() as connection:
        assert jobs.mark_dispatched(connection, job.id)  # recorded, and then the message never arrived
    assert dispatcher(street).run_once().again == (), "its time is not over yet"
    assert dispatcher(street, doorbell_timeout_seconds=-1).run_once().again == (job.id,)
    assert street.await_deliveries(job.id, 1) == ["claimed"]


def test_a_doorbell_of_an_unknown_or_cancelled_job_is_let_pass(
    street: Street, listener: subprocess.Popen[bytes]
) -> None:
    tenant = add_tenant(street.database)
    _, job = admit(street.database, tenant)
    with street.database.begin() as connection:
        jobs.request_cancel(connection, tenant.id, job.id)
    street.bells.ring("job_unknown")
    street.bells.ring(job.id)
    assert street.await_deliveries(job.id, 1) == ["too late"]
    assert street.await_deliveries("job_unknown", 1) == ["too late"]
    assert listener.poll() is None


def test_the_backlog_stays_in_the_database(street: Street, listener: subprocess.Popen[bytes]) -> None:
    tenant = add_tenant(street.database)
    made = [admit(street.database, tenant)[1].id for _ in range(20)]
    ringing = dispatcher(street, in_flight_per_tenant=4)
    assert len(ringing.run_once().dispatched) <= 4

    def all_answered() -> bool:
        ringing.run_once()
        return all(street.heard(job_id) for job_id in made)

    wait_until(all_answered, _HEAR_SECONDS, "the end of the backlog")
    assert all(street.heard(job_id) == ["claimed"] for job_id in made)


def test_a_doorbell_is_the_jobs_id_and_nothing_else(tmp_path: Path) -> None:
    bells = CeleryDoorbells(create_app(Settings(data_dir=tmp_path)))
    bells.ring("job_x")
    bells.close()
    (message,) = (tmp_path / "doorbells" / "queue").iterdir()
    body = json.loads(base64.b64decode(json.loads(message.read_text())["body"]))
    assert body[:2] == [["job_x"], {}]
    assert list((tmp_path / "doorbells" / "taken").iterdir()) == []


def test_half_a_message_does_not_end_a_worker(street: Street, listener: subprocess.Popen[bytes]) -> None:
    if not street.settings.resolved_broker_url.startswith("filesystem"):
        pytest.skip("only a folder can hold half a message")
    folder = street.settings.data_dir / "doorbells"
    (folder / "queue" / f"0_half.{QUEUE}.msg").write_text('{"body": "W1')
    street.bells.ring("job_after_half")
    assert street.await_deliveries("job_after_half", 1) == ["too late"]
    assert listener.poll() is None
    assert list((folder / "taken").iterdir()) == []


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:{port}/0", "amqp://guest:guest@127.0.0.1:{port}//"])
def test_a_broker_that_is_away_is_unavailable_soon(tmp_path: Path, broker: str) -> None:
    bells = CeleryDoorbells(create_app(Settings(data_dir=tmp_path, broker_url=broker.format(port=free_port()))))
    with pytest.raises(Unavailable):
        bells.ring("job_x")
    bells.close()
