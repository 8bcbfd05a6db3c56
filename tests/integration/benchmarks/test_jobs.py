"""The queue's benchmark runs small; what it finds out there means nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RATES = {"submitted_per_s", "bulk_memories_per_s", "completed_per_s", "bare_celery_per_s", "over_bare_celery"}


def test_every_job_of_a_small_queue_is_published_and_every_figure_measured(tmp_path: Path) -> None:
    out = tmp_path / "jobs.json"
    command = [sys.executable, "-m", "tests.benchmarks.jobs", "--small", "--stores", "local", "--logs", str(tmp_path)]
    subprocess.run([*command, "--json", str(out)], check=True, cwd=Path(__file__).parents[3], timeout=300)
    report = json.loads(out.read_text())
    for name in RATES:
        assert 0 < report[name]["lowest"] <= report[name]["median"] <= report[name]["highest"]
    assert 0 < report["claim_ms_p50"] <= report["claim_ms_p99"]
    assert report["dispatch_ms_at_1e5_backlog"] > 0
    assert {"gateway", "orchestrator", "worker 0", "worker 0: pool process", "worker 1"} <= set(report["rss_bytes"])
    assert min(report["rss_bytes"].values()) > 0
