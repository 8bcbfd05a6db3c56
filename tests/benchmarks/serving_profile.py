"""Where the time of a decoding step goes: milliseconds by operation, with our forward pass and with the model's own.

    python -m tests.benchmarks.serving_profile [--rows 16] --json OUT

The profiler itself takes time; `wall_ms` is of the same steps without it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from core.base_model.loading import load_base
from core.base_model.prepare import ensure_prepared
from core.engine import decoder
from core.engine.passes import Passer, Step
from core.settings import Settings
from tests.benchmarks.serving import Bench, open_bench
from tests.benchmarks.telling import tell, write_report

STEPS = 8
MOST_OPERATIONS = 12


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.serving_profile")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--json", type=Path, default=Path("build/bench/serve-profile.json"))
    options = parser.parse_args()
    settings = Settings()
    description = ensure_prepared(settings.base_model, settings.base_dir)
    bench = open_bench(load_base(description), settings, STEPS, options.rows + 1)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "tests.benchmarks.serving_profile", *sys.argv[1:]]),
        "load_average": os.getloadavg()[0],
        "base": description.name,
    }
    for adapted in (False, True):
        kind = "mixed" if adapted else "base"
        report[f"{kind}.ours"] = _profiled(bench, options.rows, adapted)
        with _own_forward(bench.base.model):
            report[f"{kind}.transformers"] = _profiled(bench, options.rows, adapted)
    write_report(options.json, report)
    tell(f"{options.json} is written.")


@contextmanager
def _own_forward(model: Any) -> Iterator[None]:
    """Within it the model runs by its own code, with our attention and adapters."""
    decoder.abandon(model)
    try:
        yield
    finally:
        decoder.adopt(model)


def _profiled(bench: Bench, rows: int, adapted: bool) -> dict[str, Any]:
    passer = Passer(bench.base.model, bench.adapters)
    running = [
        passer.running.join([bench.prefixes[i % len(bench.prefixes)]], {i + 1: 1.0} if adapted else {})
        for i in range(rows)
    ]
    steps = [Step(row, bench.prompts[0].activation[0]) for row in running]
    walls = []
    for _ in range(STEPS):
        start = time.perf_counter()
        passer.run([], steps)
        walls.append((time.perf_counter() - start) * 1e3)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(STEPS):
            passer.run([], steps)
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    by_operation = {event.key: round(event.self_cpu_time_total / 1e3 / STEPS, 2) for event in events}
    calls = round(sum(event.count for event in events) / STEPS)
    found = {
        "wall_ms": round(statistics.median(walls), 1),
        "operations_a_step": calls,
        "ms_by_operation": dict(list(by_operation.items())[:MOST_OPERATIONS]),
        "ms_of_others": round(sum(list(by_operation.values())[MOST_OPERATIONS:]), 2),
    }
    tell(f"{rows} rows, {'mixed' if adapted else 'base'}: {found['wall_ms']} ms, {calls} operations")
    return found


if __name__ == "__main__":
    main()
