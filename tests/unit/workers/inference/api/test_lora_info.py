from __future__ import annotations

from dataclasses import dataclass

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.internal import access
from tests.unit.workers.inference.conftest import Stand
from workers.inference.api.lora_info import lora_labels
from workers.inference.api.server import Worker, create_app


@dataclass(frozen=True, slots=True)
class Read:
    """What llm-d's endpoint picker, and the Gateway API inference extension that it stems from, make of a scrape."""

    most: int
    active: frozenset[str]
    waiting: frozenset[str]


def read(text: str) -> Read | None:
    """Their rule: of the series that name an adapter at all, the one with the greatest value, split at commas."""
    (family,) = [one for one in text_string_to_metric_families(text) if one.name == "vllm:lora_requests_info"]
    assert family.type == "gauge"
    named = [
        one for one in family.samples if one.labels["running_lora_adapters"] or one.labels["waiting_lora_adapters"]
    ]
    if not named:
        return None
    labels = max(named, key=lambda sample: sample.value).labels
    active, waiting = (
        frozenset(labels[name].split(",")) if labels[name] else frozenset()
        for name in ("running_lora_adapters", "waiting_lora_adapters")
    )
    return Read(int(labels["max_lora"]), active, waiting)


def scrape(stand: Stand) -> str:
    worker = Worker(stand.registry, access(), stand.service, stand.engine)
    answer: httpx.Response = TestClient(create_app(worker)).get("/metrics")
    assert answer.status_code == 200
    return answer.text


def test_readers_of_vllms_metric_count_adapters_that_run_and_that_wait(stand: Stand) -> None:
    assert read(scrape(stand)) is None
    tenant = stand.publisher.tenant()
    ids = [stand.publisher.publish(tenant, f"T{n}", f"Text {n}.", seed=n).memory_id for n in range(4)]
    flights = [stand.flight(stand.question(tenant, "What?", model=id_)) for id_ in ids]
    for flight in flights[:2]:
        next(flight)
    found = read(scrape(stand))
    assert found is not None
    assert found.most == stand.residency.capacity == 2
    assert (len(found.active), len(found.waiting)) == (2, 2)
    assert found.active.isdisjoint(found.waiting)
    for flight in flights:
        list(flight)
    assert read(scrape(stand)) is None


def test_no_series_names_a_memory_and_only_one_is_shown_at_a_time(stand: Stand) -> None:
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Velmora", "Velmora is a town.", seed=1)
    flight = stand.flight(stand.question(tenant, "What?", model=entry.memory_id))
    next(flight)
    scrape(stand)
    text = scrape(stand)
    assert text.count("vllm:lora_requests_info{") == 1
    for secret in (tenant, entry.memory_id, entry.adapter_digest, entry.adapter_digest[7:15]):
        assert secret not in text
    list(flight)


def test_the_label_sets_are_bounded_by_the_slots_whoever_asks_for_what() -> None:
    names = [f"sha256:{number}" for number in range(9)]
    sets = {
        tuple(lora_labels(3, names[start : start + running], names[start + 1 : start + 1 + waiting]).items())
        for start in range(4)
        for running in range(5)
        for waiting in range(5)
    }
    assert len(sets) <= 4 * 4


@pytest.mark.parametrize(
    ("running", "waiting", "labels"),
    [
        ([], [], ("", "")),
        (["a"], [], ("adapter-1", "")),
        (["a", "b"], ["b", "c"], ("adapter-1,adapter-2", "adapter-3")),
        ([], ["c", "d", "e", "f"], ("", "adapter-1,adapter-2,adapter-3")),
    ],
)
def test_an_adapter_that_runs_and_waits_counts_once(
    running: list[str], waiting: list[str], labels: tuple[str, str]
) -> None:
    found = lora_labels(3, running, waiting)
    assert (found["running_lora_adapters"], found["waiting_lora_adapters"]) == labels
    assert found["max_lora"] == "3"
