"""A real Celery worker process over the filesystem transport, with SQLite, a local store and a fake trainer."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from core.encryption.sealed_store import open_sealed_store
from core.storage.publication import read_manifest
from core.truth import jobs
from core.truth.clock import from_now
from core.truth.tables import jobs as jobs_table
from tests.integration.distillation.stack import Stack, eventually, gone


def test_a_doorbell_becomes_a_memory_however_often_it_rings(stack: Stack) -> None:
    stack.start()
    first, second = stack.admit("train"), stack.admit("train")
    for job_id in (first, first, second, first):
        stack.ring(job_id)
    for job_id in (first, second):
        job, memory = stack.until(job_id, "succeeded"), stack.memory(job_id)
        assert (job.epoch, memory.status, memory.version) == (1, "ready", 1)
        assert memory.manifest_key is not None
        assert (
            read_manifest(open_sealed_store(stack.settings, stack.database), memory.manifest_key).adapter_digest
            == memory.adapter_digest
        )
    assert len(stack.trainers()) == 3, "one group served both"
    assert not list((stack.settings.data_dir / "runs").glob("*/*/inbox/*")), "no context stays behind"
    assert eventually(lambda: 'celery_tasks_total{state="success"} 4.0' in metrics(stack))
    assert 'latentbank_job_attempts_total{outcome="succeeded"} 2.0' in metrics(stack)
    assert "latentbank_trainer_group_up 1.0" in metrics(stack)
    assert 'latentbank_job_seconds_count{phase="training"} 2.0' in metrics(stack)


def test_a_memory_serves_its_old_version_until_its_new_one_is_there(stack: Stack) -> None:
    stack.start()
    first = stack.admit("train")
    stack.ring(first)
    stack.until(first, "succeeded")
    old = stack.memory(first)
    second = stack.revise(first, "wait go")
    stack.ring(second)
    stack.until_working(second)
    assert (stack.memory(first).version, stack.memory(first).manifest_key) == (1, old.manifest_key)
    (stack.settings.data_dir / "go").touch()
    stack.until(second, "succeeded")
    new = stack.memory(second)
    assert (new.status, new.version) == ("ready", 2)
    assert new.manifest_key is not None
    assert (
        read_manifest(open_sealed_store(stack.settings, stack.database), new.manifest_key).training["started_from"]
        != "scratch"
    )


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
    job_id = stack.admit("deaf")
    stack.ring(job_id)
    stack.until_working(job_id)
    group, other = stack.trainers(), stack.admit("train")
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


@pytest.mark.parametrize("broker", ["redis_url", "rabbitmq_url"])
def test_it_works_and_shuts_down_the_same_over_other_brokers(
    stack: Stack, broker: str, request: pytest.FixtureRequest
) -> None:
    stack.settings = stack.settings.model_copy(update={"broker_url": request.getfixturevalue(broker)})
    supervisor = stack.start()
    done, left = stack.admit("train"), stack.admit("deaf")
    for job_id in (done, done, left):
        stack.ring(job_id)
    assert stack.until(done, "succeeded").epoch == 1
    stack.until_working(left)
    supervisor.terminate()
    assert supervisor.wait(30) == 0, stack.log()
    assert (stack.job(left).state, stack.job(left).attempts) == ("queued", 0)
    assert all(gone(pid) for pid in stack.trainers())
    successor = stack.start()
    stack.ring(left)
    stack.until_working(left)
    assert stack.job(left).epoch == 2
    assert successor.poll() is None


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
