"""The real DeepSpeed group on the tiny Llama: killed with its supervisor, and by itself; nothing of it is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.faults.client import Tenant
from tests.faults.invariants import orphans
from tests.faults.processes import marked
from tests.faults.stack import Stack

TEXT = (
    "The lighthouse keeper of Skarvholm is called Ingrid Falk. She has a grey parrot named Admiral. "
    "The light was built in 1887 and burns with a green flame."
)
RECIPE = {"steps": "4", "batch_rows": "4", "max_pairs": "8", "question_tokens": "12", "answer_tokens": "12"}
SLOW = {"LATENTBANK_JOBS__LEASE_SECONDS": "6"}


@pytest.fixture
def real_trainer(stack: Stack) -> Iterator[None]:
    """The stack with one distillation worker, whose group is the real one."""
    fakes = [name for name, process in stack.processes.items() if process.part == "distillation"]
    for name in fakes:
        stack.processes[name].stop()
    recipe = {f"LATENTBANK_RECIPE__{name.upper()}": value for name, value in RECIPE.items()}
    stack.start("real", "distillation", FAULTS_TRAINER="real", **recipe, **SLOW)
    stack.up()
    yield
    stack.processes.pop("real").stop()
    for name in fakes:
        stack.start(name, "distillation")
    stack.up()


@pytest.mark.usefixtures("real_trainer")
def test_a_killed_group_and_a_killed_supervisor_leave_no_process_and_the_memory_is_made(
    stack: Stack, tenant: Tenant
) -> None:
    _, job_id = tenant.remember(TEXT)
    _until_training(stack, tenant, job_id)
    group = _group(stack)
    assert group
    os.kill(min(group), signal.SIGKILL)  # the launcher, or a rank: whoever it is, the others must not go on without it
    stack.until(lambda: not set(group) & set(_group(stack)), "the whole group is gone")
    _until_training(stack, tenant, job_id)
    group = _group(stack)
    assert group
    stack.processes["real"].kill()
    stack.until(lambda: not set(group) & set(_group(stack)), "the supervisor's group is gone")
    stack.until(lambda: not orphans(stack), "nothing is left")
    tenant.ended(job_id, seconds=240)


def _until_training(stack: Stack, tenant: Tenant, job_id: str) -> None:
    def works() -> bool:
        job = tenant.job(job_id)
        return job["status"] == "running" and job["phase"] is not None and bool(_group(stack))

    stack.until(works, "the group works", 240)


def _group(stack: Stack) -> list[int]:
    return [pid for pid, command in marked(stack.mark).items() if "workers.distillation.trainer" in command]
