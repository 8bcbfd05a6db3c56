from __future__ import annotations

from typing import Any

from tests.benchmarks.distil import compared

STUDIED = {"seconds": [3.0, 5.0], "cpu_seconds": [6.0, 10.0]}


def spent(seconds: list[float], peak: int) -> dict[str, Any]:
    return {"seconds": seconds, "cpu_seconds": [2 * s for s in seconds], "peak_rss": peak, "seconds_by_phase": []}


def test_seconds_are_those_of_a_memory_and_asking_is_charged_to_the_plain_loop_too() -> None:
    rounds = [
        (spent([20.0], 5), spent([30.0, 42.0], 7)),
        (spent([10.0], 6), spent([30.0, 22.0], 8)),
        (spent([10.0], 4), spent([40.0, 42.0], 9)),
    ]
    report = compared(rounds, STUDIED, documents=2)
    assert report["seconds_ours"] == [10.0, 5.0, 5.0]
    assert report["seconds_plain"] == [40.0, 30.0, 45.0]
    assert report["cpu_seconds_plain"] == [80.0, 60.0, 90.0]
    assert (report["speedup"], report["speedup_spread"]) == (6.0, [4.0, 9.0])
    assert (report["peak_rss_ours"], report["peak_rss_plain"]) == (6, 9)
