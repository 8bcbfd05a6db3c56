"""The serving benchmark runs on a tiny base; what it finds out there means nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def run(module: str, base: BaseDescription, directory: Path, *more: str) -> dict[str, Any]:
    """The report of a benchmark."""
    out = directory / "report.json"
    environment = {
        **os.environ,
        "LATENTBANK_BASE_MODEL": base.reference,
        "LATENTBANK_DATA_DIR": str(directory),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", module, *more, "--tokens", "4", "--json", str(out)]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[3], timeout=300)
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def test_both_sides_of_every_ratio_are_measured_in_every_round(tiny_base: BaseDescription, tmp_path: Path) -> None:
    report = run("tests.benchmarks.serving", tiny_base, tmp_path, "--rounds", "2", "--small")
    assert set(report) > FIGURES
    for name in FIGURES:
        figure = report[name]
        assert len(figure["sides"]) == 2
        assert all(value > 0 for pair in figure["sides"] for value in pair)
        assert figure["lowest"] <= figure["ratio"] <= figure["highest"]
    assert set(report["load_ms"]) == TIERS
    assert set(report["retrieval_ms"]) == {"1e2", "1e3"}
    assert min(report["retrieval_ms"].values()) > 0
    assert set(report["fleet"]) == {"hit_rate", "imbalance"}
    assert all(0 < tier["lowest"] <= tier["median"] <= tier["highest"] for tier in report["load_ms"].values())


def test_every_figure_of_growth_is_measured_at_every_size(tiny_base: BaseDescription, tmp_path: Path) -> None:
    report = run("tests.benchmarks.serving_growth", tiny_base, tmp_path, "--rounds", "1")
    figures = {name: sizes for name, sizes in report.items() if "_by_" in name}
    assert len(figures) == 8
    assert all(len(sizes) >= 3 and min(sizes.values()) > 0 for sizes in figures.values())
