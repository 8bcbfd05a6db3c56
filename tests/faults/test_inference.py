"""A real inference worker on the tiny base, killed while it loads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.client import Tenant
from tests.faults.stack import Stack


@pytest.fixture(autouse=True)
def _inference(stack: Stack) -> Iterator[None]:
    stack.start("inference", "inference")
    stack.up()
    yield
    stack.processes.pop("inference").stop()


def ask(tenant: Tenant, memory_id: str) -> str | None:
    """The digest that answered, asked as a client does: again, while the service says to come back."""
    body = {"model": memory_id, "messages": [{"role": "user", "content": "What is it?"}], "max_tokens": 4}
    answer = tenant.call("POST", "/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    digest: str | None = answer.json()["memory"]["digest"]
    return digest


def test_a_worker_killed_while_it_loads_answers_with_the_right_adapter_when_it_is_back(
    stack: Stack, tenant: Tenant
) -> None:
    made = [tenant.remember("train")[0] for _ in range(3)]
    for memory_id, jobs in tenant.acknowledged.items():
        tenant.ended(jobs[0][1])
        assert memory_id in made
    digests = {memory_id: tenant.memory(memory_id)["digest"] for memory_id in made}
    for memory_id, point in zip(made, ("load: before fetch", "load: fetched", None), strict=True):
        starts = stack.processes["inference"].starts
        if point is not None:
            stack.orders.give(point, "kill")
        assert ask(tenant, memory_id) == digests[memory_id]
        assert stack.processes["inference"].starts == starts + (point is not None)
    assert {memory_id: ask(tenant, memory_id) for memory_id in made} == digests


def test_bytes_that_go_bad_on_the_way_to_a_worker_are_never_answered_with(stack: Stack, tenant: Tenant) -> None:
    memory_id, job_id = tenant.remember("train well")
    tenant.ended(job_id)
    stack.stores["inference"].fail("corrupted", method="GET", part="safetensors", times=2)
    assert ask(tenant, memory_id) == tenant.memory(memory_id)["digest"]
    assert stack.stores["inference"].injected["corrupted"] == 2
