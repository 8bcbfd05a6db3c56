"""Packs in real Celery worker processes, with a fake trainer."""

from __future__ import annotations

import os
import signal

import httpx

from core.truth import jobs
from tests.integration.distillation.stack import Stack, eventually


def states(stack: Stack, job_ids: list[str]) -> list[str]:
    return [stack.job(job_id).state for job_id in job_ids]


def metrics(stack: Stack) -> str:
    return httpx.get(f"{stack.alive()[0].url}/metrics").text


def test_bulk_goes_through_one_run_and_each_job_ends_by_itself(stack: Stack) -> None:
    stack.start()
    made = [stack.admit(text) for text in ("wait go", "train", "refuse", "train", "hang")]
    for job_id in made:
        stack.ring(job_id)
    assert eventually(lambda: states(stack, made[1:4]) == ["succeeded", "failed", "succeeded"]), stack.log()
    assert states(stack, [made[0], made[4]]) == ["running", "running"]
    with stack.database.begin() as connection:
        jobs.request_cancel(connection, stack.tenant_id, made[4])
    stack.until(made[4], "cancelled")
    assert stack.job(made[0]).state == "running"
    (stack.settings.data_dir / "go").touch()
    stack.until(made[0], "succeeded")
    assert [stack.job(job_id).epoch for job_id in made] == [1] * 5
    assert len(stack.trainers()) == 3, "one warm group"
    assert eventually(lambda: "latentbank_pack_jobs_sum 5.0" in metrics(stack))
    assert "latentbank_pack_jobs_count 1.0" in metrics(stack)
    assert "latentbank_job_claim_wait_seconds_count 5.0" in metrics(stack)


def test_contexts_that_come_a_moment_later_are_gathered_too(stack: Stack) -> None:
    stack.environment = {"LATENTBANK_DISTILLATION__GATHER_SECONDS": "3"}
    stack.start()
    first = stack.admit("train")
    stack.ring(first)
    stack.eventually(lambda: stack.job(first).state == "running")
    later = stack.admit("train")
    stack.until(later, "succeeded")
    assert stack.job(first).state == "succeeded"


def test_a_killed_trainer_costs_only_the_unfinished_and_they_come_back_alone(stack: Stack) -> None:
    stack.start()
    made = [stack.admit(text) for text in ("train", "train", "wait go", "wait go")]
    stack.ring(made[0])
    assert eventually(lambda: states(stack, made) == ["succeeded", "succeeded", "running", "running"]), stack.log()
    for pid in stack.trainers():
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: states(stack, made[2:]) == ["queued", "queued"]), stack.log()
    assert [stack.memory(job_id).status for job_id in made] == ["ready", "ready", "pending", "pending"]
    (stack.settings.data_dir / "go").touch()
    stack.ring(made[2])
    stack.until(made[2], "succeeded")
    assert (stack.job(made[3]).state, stack.job(made[3]).attempts) == ("queued", 1)
    stack.ring(made[3])
    stack.until(made[3], "succeeded")


def test_two_workers_share_what_waits_and_do_nothing_twice(stack: Stack) -> None:
    stack.start()
    stack.start()
    made = [stack.admit("wait go") for _ in range(6)]
    for job_id in (*made, *made):
        stack.ring(job_id)
    assert eventually(lambda: states(stack, made) == ["running"] * 6), stack.log()
    assert len({stack.job(job_id).worker_id for job_id in made}) == 2, "neither took all"
    (stack.settings.data_dir / "go").touch()
    for job_id in made:
        assert stack.until(job_id, "succeeded").epoch == 1
