"""The fleet's simulation on a small fleet: what it must hold whatever the size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_small_fleet_is_balanced_keeps_its_tenants_and_survives_a_tenth_dying(tmp_path: Path) -> None:
    out = tmp_path / "fleet.json"
    command = [sys.executable, "-m", "tests.benchmarks.fleet", "--small", "--json", str(out)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3], timeout=120)
    report = json.loads(out.read_text())
    assert 0.85 < report["hit_rate"] <= 1.05
    assert 1.0 <= report["imbalance"] <= 1.3
    assert report["peak_over_mean"] < 1.6
    dying = report["dying"]
    assert dying["tenants_moved_needlessly"] == 0.0
    assert 0.05 < dying["tenants_moved"] < 0.2
    assert dying["unanswered"] == 0
    assert all(rate > 0.8 for rate in dying["hit_rate_right_after"].values())
