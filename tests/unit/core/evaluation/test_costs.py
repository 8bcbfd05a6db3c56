from __future__ import annotations

from dataclasses import replace

import pytest

from core.evaluation.costs import cost_of, covered, latency_of
from core.evaluation.records import Made, Served
from tests.unit.core.evaluation.examples import made, record


@pytest.mark.parametrize(
    ("spells", "seconds"),
    [
        ([], 0),
        ([(1, 4)], 3),
        ([(1, 4), (2, 3)], 3),
        ([(2, 6), (1, 4)], 5),
        ([(1, 2), (5, 7)], 3),
    ],
)
def test_covered_time_counts_no_moment_twice_and_no_pause(spells: list[tuple[float, float]], seconds: float) -> None:
    assert covered(spells) == seconds


def test_the_cost_of_a_memory_is_all_time_divided_by_all_memories() -> None:
    cost = cost_of([made("a"), made("b", submitted=100.0, finished=160.0)], peak_rss_bytes=7)
    assert cost["seconds_per_memory"] == 30.0
    assert cost["seconds_by_phase"] == {"self_study": 10.0, "training": 12.0}
    assert cost["bytes_per_memory"] == 1000
    assert cost["kv_bytes_of_text"] == 5000
    assert cost["peak_rss_bytes"] == 7


def test_a_failed_memory_takes_time_and_gives_no_bytes() -> None:
    failed = Made(made("b").document, "mem_b", False, "poison", 100.0, 200.0)
    cost = cost_of([made("a"), failed], peak_rss_bytes=None)
    assert cost["seconds_per_memory"] == 100.0
    assert cost["failed"] == 1
    assert cost["bytes_per_memory"] == 1000


def test_a_phase_is_averaged_over_the_memories_that_had_it() -> None:
    other = replace(made("b"), seconds_by_phase={"training": 20.0})
    assert cost_of([made("a"), other], None)["seconds_by_phase"] == {"self_study": 10.0, "training": 16.0}


def test_nothing_made_costs_nothing_that_is_known() -> None:
    refused = Made(made("a").document, None, False, "too long", None, None)
    assert cost_of([refused], None)["seconds_per_memory"] is None


def test_latencies_are_medians_and_agreement_is_with_the_batched_answer() -> None:
    records = [record("1", routed="slate"), record("2", routed="slate"), record("3", routed="slate")]
    served = [
        Served("1", "slate ", 10, 100, 20),
        Served("2", "granite", 30, 300, 40),
        Served("3", "slate", 20, 200, 30),
    ]
    figures = latency_of(served, records, seed=0)
    assert figures["latency.routed_ttft_ms"].value == 20
    assert figures["latency.rag_ttft_ms"].value == 200
    assert figures["latency.rag_cached_ttft_ms"].value == 30
    assert figures["latency.served_agreement"].value == pytest.approx(2 / 3)


def test_nothing_served_gives_no_latency() -> None:
    assert all(figure.value is None for figure in latency_of([], [], 0).values())
