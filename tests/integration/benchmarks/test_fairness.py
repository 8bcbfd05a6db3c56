"""The fairness simulation on few tenants: what it must hold whatever the size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_few_tenants_get_their_shares_and_the_light_ones_do_not_wait_behind_floods(tmp_path: Path) -> None:
    out = tmp_path / "fairness.json"
    command = [sys.executable, "-m", "tests.benchmarks.fairness", "--small", "--json", str(out)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3], timeout=120)
    report = json.loads(out.read_text())
    right, wrong = report["with_right_estimates"], report
    assert right["always_backlogged"] == wrong["always_backlogged"] == report["size"]["heavy"]
    assert right["largest_deviation_of_promise"] <= 1.0, "what the shares promise where estimates are right"
    assert wrong["largest_deviation_of_promise"] <= 3.0, "wrong estimates are settled, not forgotten"
    assert right["jain"] > 0.98
    assert wrong["jain"] > 0.9
    waits = report["light_wait_seconds"]
    assert waits["without_heavy"]["p99"] <= waits["fair"]["p99"] < 0.2 * waits["fifo"]["p99"]
    assert waits["fair"]["p50"] < report["light_mean_cost_seconds"]
    assert set(report["seconds_per_decision_by_contenders"]) == {"100", "1000", "10000"}
