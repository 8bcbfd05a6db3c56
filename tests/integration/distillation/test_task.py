"""A real Celery worker process over the filesystem transport, with SQLite, a local store and a fake trainer."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from celery import Celery
from sqlalchemy import update

from core.ids import new_id
from core.jobs.doorbells import QUEUE, TASK_NAME, celery_settings
from core.settings import JobSettings, Settings
from core.storage.keys import context_key
from core.storage.opening import open_store
from core.storage.publication import read_manifest
from core.truth import jobs, memories, tenants, workers
from core.truth.clock import from_now
from core.truth.database import Database
from core.truth.records import Job, Memory, NewMemory, WorkerRecord
from core.truth.tables import jobs as jobs_table
from tests.fixtures.fake_trainer import make_fake_base

WAIT_SECONDS = 40.0
# Long enough for a loaded machine's renewals, short enough to be waited for.
JOBS = JobSettings(lease_seconds=6.0, heartbeat_seconds=0.3)


@dataclass
class Stack:
    """Truth, store and broker in one directory, and the worker processes started on them."""

    settings: Settings
    database: Database
    tenant_id: str
    base_digest: str
    pids: Path
    supervisors: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        """A supervisor, announced and ready."""
        known = {worker.id for worker in self.alive()}
        log = (self.settings.data_dir / "supervisor.log").open("ab")
        environment = {
            "LATENTBANK_DATA_DIR": str(self.settings.data_dir),
            "LATENTBANK_BASE_MODEL": self.settings.base_model,
            "LATENTBANK_ENCODER": self.settings.encoder,
            "LATENTBANK_WORKER_TTL_SECONDS": "3",
            "LATENTBANK_JOBS__LEASE_SECONDS": str(JOBS.lease_seconds),
            "LATENTBANK_JOBS__HEARTBEAT_SECONDS": str(JOBS.heartbeat_seconds),
            "LATENTBANK_DISTILLATION__METRICS_PORT": "0",
            "LATENTBANK_DISTILLATION__CANCEL_GRACE_SECONDS": "0.5",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.distillation.supervisor", str(self.pids)],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        )
        log.close()
        self.supervisors.append(process)
        eventually(lambda: {worker.id for worker in self.alive()} - known or process.poll() is not None)
        assert process.poll() is None, self.log()
        return process

    def log(self) -> str:
        return (self.settings.data_dir / "supervisor.log").read_text()[-6000:]

    def alive(self) -> list[WorkerRecord]:
        with self.database.read() as connection:
            return workers.alive(connection, "distillation")

    def admit(self, text: str) -> str:
        memory_id = new_id("mem")
        data = json.dumps({"kind": "text", "title": "A title", "text": text}).encode()
        key = context_key(self.tenant_id, memory_id)
        open_store(self.settings).put(key, data)
        new = NewMemory(
            id=memory_id,
            tenant_id=self.tenant_id,
            collection="default",
            title="A title",
            metadata={},
            kind="text",
            context_key=key,
            context_sha256=hashlib.sha256(data).hexdigest(),
            context_bytes=len(data),
            context_tokens=1,
            base_digest=self.base_digest,
            cost_estimate_seconds=1.0,
        )
        with self.database.begin() as connection:
            return memories.admit(connection, new, backlog_limit=10)[1].id

    def ring(self, job_id: str) -> None:
        app = Celery("bell")
        app.conf.update(celery_settings(self.settings.resolved_broker_url, self.settings.data_dir))
        app.send_task(TASK_NAME, args=[job_id], queue=QUEUE)
        app.close()

    def job(self, job_id: str) -> Job:
        with self.database.read() as connection:
            return jobs.get_job(connection, self.tenant_id, job_id)

    def memory(self, job_id: str) -> Memory:
        with self.database.read() as connection:
            return memories.get_memory(connection, self.tenant_id, self.job(job_id).memory_id)

    def until(self, job_id: str, state: str) -> Job:
        eventually(lambda: self.job(job_id).state == state)
        assert self.job(job_id).state == state, self.log()
        return self.job(job_id)

    def until_working(self, job_id: str) -> None:
        """Until the trainer has reported from inside the run."""
        eventually(lambda: self.job(job_id).phase is not None)
        assert self.job(job_id).phase is not None, self.log()

    def trainers(self) -> list[int]:
        """The ids of all processes that any group has had."""
        return [int(line) for line in self.pids.read_text().split()]


def eventually(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    settings = Settings(data_dir=tmp_path, base_model="fake", encoder="fake", jobs=JOBS, _env_file=None)
    base = make_fake_base("fake", settings.base_dir)
    database = Database(settings.resolved_database_url)
    database.migrate()
    with database.begin() as connection:
        tenant = tenants.create_tenant(connection, "tenant")
    made = Stack(settings, database, tenant.id, base.digest, tmp_path / "pids")
    yield made
    for process in made.supervisors:
        process.kill()
        process.wait()
    if made.pids.exists():
        eventually(lambda: all(gone(pid) for pid in made.trainers()))
    database.dispose()


def test_a_doorbell_becomes_a_memory_however_often_it_rings(stack: Stack) -> None:
    stack.start()
    first, second = stack.admit("train"), stack.admit("train")
    for job_id in (first, first, second, first):
        stack.ring(job_id)
    for job_id in (first, second):
        job, memory = stack.until(job_id, "succeeded"), stack.memory(job_id)
        assert (job.epoch, memory.status, memory.version) == (1, "ready", 1)
        assert memory.manifest_key is not None
        assert read_manifest(open_store(stack.settings), memory.manifest_key).adapter_digest == memory.adapter_digest
    assert len(stack.trainers()) == 3, "one group served both"
    assert not list((stack.settings.data_dir / "runs").glob("*/*/inbox/*")), "no context stays behind"
    assert eventually(lambda: 'celery_tasks_total{state="success"} 4.0' in metrics(stack))
    assert 'latentbank_job_attempts_total{outcome="succeeded"} 2.0' in metrics(stack)
    assert "latentbank_trainer_group_up 1.0" in metrics(stack)
    assert 'latentbank_job_seconds_count{phase="training"} 2.0' in metrics(stack)


def metrics(stack: Stack) -> str:
    return httpx.get(f"{stack.alive()[0].url}/metrics").text


def test_a_cancel_ends_a_group_that_does_not_stop_by_itself(stack: Stack) -> None:
    stack.start()
    job_id = stack.admit("deaf")
    stack.ring(job_id)
    stack.until_working(job_id)
    group = stack.trainers()
    with stack.database.begin() as connection:
        jobs.request_cancel(connection, stack.tenant_id, job_id)
    assert stack.until(job_id, "cancelled").reason == "cancel_requested"
    assert eventually(lambda: all(gone(pid) for pid in group))
    other = stack.admit("train")
    stack.ring(other)
    stack.until(other, "succeeded")


def test_a_killed_supervisor_leaves_no_orphans_and_its_job_is_taken_back(stack: Stack) -> None:
    supervisor = stack.start()
    job_id = stack.admit("deaf")
    stack.ring(job_id)
    stack.until_working(job_id)
    supervisor.kill()
    supervisor.wait()
    group = stack.trainers()
    assert len(group) == 3
    assert eventually(lambda: all(gone(pid) for pid in group)), stack.log()
    assert eventually(lambda: not list((stack.settings.data_dir / "runs").glob("*/*/inbox")))
    assert eventually(lambda: reaped(stack) == [job_id])
    assert (stack.job(job_id).state, stack.job(job_id).attempts) == ("queued", 1)


def test_a_killed_pool_process_takes_its_group_along_and_is_replaced(stack: Stack) -> None:
    supervisor = stack.start()
    job_id, other = stack.admit("deaf"), stack.admit("train")
    stack.ring(job_id)
    stack.until_working(job_id)
    group = stack.trainers()
    for pid in pool_processes(supervisor):
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: all(gone(pid) for pid in group))
    stack.ring(other)
    stack.until(other, "succeeded")
    assert stack.memory(job_id).version is None


def pool_processes(supervisor: subprocess.Popen[bytes]) -> list[int]:
    tasks = Path(f"/proc/{supervisor.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def reaped(stack: Stack) -> list[str]:
    with stack.database.begin() as connection:
        return [job.id for job in jobs.reap(connection, max_attempts=3)]


def test_a_planned_shutdown_releases_the_job_and_ends_the_group(stack: Stack) -> None:
    supervisor = stack.start()
    job_id = stack.admit("deaf")
    stack.ring(job_id)
    stack.until_working(job_id)
    supervisor.terminate()
    assert supervisor.wait(30) == 0, stack.log()
    job = stack.job(job_id)
    assert (job.state, job.attempts, job.epoch) == ("queued", 0, 1)
    assert all(gone(pid) for pid in stack.trainers())
    assert stack.alive() == []
    assert [path.name for path in (stack.settings.data_dir / "runs").iterdir()] == [".lock"]


def test_a_lost_lease_ends_the_group_and_publishes_nothing(stack: Stack) -> None:
    stack.start()
    job_id = stack.admit("hang")
    stack.ring(job_id)
    stack.until_working(job_id)
    group = stack.trainers()
    with stack.database.begin() as connection:
        connection.execute(update(jobs_table).where(jobs_table.c.id == job_id).values(lease_until=from_now(-1.0)))
    assert eventually(lambda: all(gone(pid) for pid in group))
    assert (stack.job(job_id).state, stack.memory(job_id).version) == ("running", None)
    assert reaped(stack) == [job_id]


def test_a_supervisor_stopped_past_its_lease_publishes_nothing_when_it_wakes(stack: Stack) -> None:
    supervisor = stack.start()
    job_id = stack.admit("hang")
    stack.ring(job_id)
    stack.until_working(job_id)
    processes = (supervisor.pid, *pool_processes(supervisor))
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    assert eventually(lambda: reaped(stack) == [job_id])
    for run in (stack.settings.data_dir / "runs").glob("*/*/inbox/*"):
        (run / "cancel").touch()
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    assert eventually(lambda: all(gone(pid) for pid in stack.trainers()))
    assert (stack.job(job_id).state, stack.memory(job_id).version) == ("queued", None)
