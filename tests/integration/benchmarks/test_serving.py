"""The serving benchmark runs on a tiny base; what it finds out there means nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from core.base_model.description import BaseDescription

FIGURES = {
    "mixed16_over_base",
    "mixed16_over_peft",
    "base_over_transformers",
    "throughput_batch16_over_1",
    "sharing_k5_prefix512",
    "gate_overhead_prefix512",
    "ttft_rag_over_routed",
    "cliff_4x",
}
TIERS = {"ram", "disk", "store", "raw_get"}


def test_both_sides_of_every_ratio_are_measured_in_every_round(tiny_base: BaseDescription, tmp_path: Path) -> None:
    out = tmp_path / "serve.json"
    environment = {
        **os.environ,
        "LATENTBANK_BASE_MODEL": tiny_base.reference,
        "LATENTBANK_DATA_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.benchmarks.serving", "--rounds", "2", "--tokens", "4", "--json", str(out)]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[3], timeout=300)
    report = json.loads(out.read_text())
    assert set(report) > FIGURES
    for name in FIGURES:
        figure = report[name]
        assert len(figure["sides"]) == 2
        assert all(value > 0 for pair in figure["sides"] for value in pair)
        assert figure["lowest"] <= figure["ratio"] <= figure["highest"]
    assert set(report["load_ms"]) == TIERS
    assert all(0 < tier["lowest"] <= tier["median"] <= tier["highest"] for tier in report["load_ms"].values())
