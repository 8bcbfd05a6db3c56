"""Two worker processes of one node, with one truth, one store and one node cache, answer as if they were one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.adapters.validation import layers_of_base
from core.base_model.description import BaseDescription
from core.retrieval.encoder import Encoder
from core.truth.records import BankEntry
from tests.fixtures.plain_answers import Acting, PlainAnswers
from tests.fixtures.published import TARGETS, random_weights
from tests.integration.inference.conftest import RunningWorker, start_worker, stop_worker

SEEDS = (31, 32, 33, 34)
"""Of one memory each; a worker has a slot for one of them, and each question pushes another out."""
QUESTION = "Who is the mayor of Velmora?"
TOKENS = 16


@pytest.fixture(scope="module")
def workers(tiny_base: BaseDescription, encoder: Encoder) -> Iterator[tuple[RunningWorker, RunningWorker]]:
    with tempfile.TemporaryDirectory() as directory:
        small = {"LATENTBANK_SERVING__SLOTS": "2", "LATENTBANK_SERVING__RAM_BYTES": "1"}
        started: list[RunningWorker] = []
        try:
            for _ in range(2):
                started.append(start_worker(Path(directory), tiny_base, encoder, **small))
                started[-1].await_ready()
            yield started[0], started[1]
        finally:
            for running in started:
                stop_worker(running)


@dataclass(frozen=True, slots=True)
class Said:
    text: str
    digest: str | None


def test_two_processes_give_the_same_answers_with_the_same_digests_after_eviction_too(
    workers: tuple[RunningWorker, RunningWorker], tiny_base: BaseDescription
) -> None:
    first = workers[0]
    tenant = first.publisher.tenant()
    entries = [first.publisher.publish(tenant, "Velmora", "A town.", seed=seed) for seed in SEEDS]
    oracle, layers = PlainAnswers(tiny_base), layers_of_base(tiny_base.path, TARGETS)
    messages = [{"role": "user", "content": QUESTION}]
    expected = [
        Said(oracle.text(messages, [Acting(random_weights(layers, seed), 2.0)], TOKENS), entry.adapter_digest)
        for seed, entry in zip(SEEDS, entries, strict=True)
    ]
    expected.append(Said(oracle.text(messages, [], TOKENS), None))
    assert len({said.text for said in expected}) == len(expected)
    models = [*(entry.memory_id for entry in entries), tiny_base.name]
    for stream in (False, True):
        for worker in workers:
            assert [ask(worker, tenant, model, stream=stream) for model in models] == expected
    with ThreadPoolExecutor(2 * len(models)) as pool:
        at_once = list(pool.map(lambda put: ask(put[0], tenant, put[1]), [(w, m) for w in workers for m in models]))
    assert at_once == [*expected, *expected]
    for worker in workers:
        assert worker.metric("latentbank_adapter_evictions_total", reason="lru", tier="slot") >= len(SEEDS)
    # What one has brought to the node the other finds there.
    from_store = {"source": "object_store", "stage": "fetch"}
    fetched = [worker.metric("latentbank_adapter_load_seconds_count", **from_store) for worker in workers]
    assert sum(fetched) == len(SEEDS)


def test_a_new_version_is_served_by_both_and_a_forgotten_memory_by_none(
    workers: tuple[RunningWorker, RunningWorker], tiny_base: BaseDescription
) -> None:
    first = workers[0]
    tenant = first.publisher.tenant()
    old = first.publisher.publish(tenant, "Velmora", "A town.", seed=35)
    before = [ask(worker, tenant, old.memory_id) for worker in workers]
    new: BankEntry = first.publisher.revise(tenant, old, "A city.", seed=36)
    after = [ask(worker, tenant, old.memory_id) for worker in workers]
    assert [said.digest for said in before] == [old.adapter_digest] * 2
    assert [said.digest for said in after] == [new.adapter_digest] * 2
    assert before[0] == before[1] != after[0] == after[1]
    first.publisher.delete(new, tenant)
    for worker in workers:
        with worker.http(tenant) as http:
            asked = {"model": new.memory_id, "messages": [{"role": "user", "content": QUESTION}]}
            assert http.post("/v1/chat/completions", json=asked).status_code == 404


def ask(worker: RunningWorker, tenant: str, model: str, *, stream: bool = False) -> Said:
    """What `model` answers, the base by itself."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": TOKENS,
        "extra_body": {"memory": {"mode": "off"}} if model.startswith("tiny") else {},
    }
    client = worker.openai(tenant).chat.completions
    if not stream:
        whole = client.create(**asked)
        return Said(whole.choices[0].message.content, whole.memory["digest"])
    chunks = list(client.create(stream=True, **asked))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return Said(text, chunks[0].memory["digest"])
