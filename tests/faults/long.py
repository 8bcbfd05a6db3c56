"""`python -m tests.faults.long`: many random schedules on one stack, counted in `build/faults.json`.

`SEED=n` plays that one alone. A schedule that broke a promise is printed whole.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.brokers import Broker
from tests.faults.schedules import Player, drawn
from tests.faults.stack import Stack

OUTPUT = "FAULTS_JSON"
RANGE = "FAULTS_SEEDS"


def main() -> int:
    """Runs itself as a test, for the servers are fixtures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=None, help="the clock chooses one if it is not given")
    parser.add_argument("--json", type=Path, default=Path("build/faults.json"))
    options = parser.parse_args()
    first = options.first_seed if options.first_seed is not None else int(time.time()) % 10**6 * 1000
    if "SEED" in os.environ:
        first, options.schedules = int(os.environ["SEED"]), 1
    os.environ[RANGE] = f"{first} {options.schedules}"
    os.environ[OUTPUT] = str(options.json)
    # In a process of its own, because pytest wants to be the first to import what it watches over.
    flags = ["-q", "-s", "-p", "no:cacheprovider", "-o", "python_files=long.py"]
    return subprocess.call([sys.executable, "-m", "pytest", *flags, __file__])


@pytest.mark.slow
def test_no_random_schedule_breaks_a_promise(stack: Stack, broker: Broker) -> None:
    first, count = map(int, os.environ[RANGE].split())
    player, failed, began = Player(stack, broker), {}, time.monotonic()
    longest = 0.0
    for seed in range(first, first + count):
        schedule, started = drawn(seed), time.monotonic()
        try:
            found = player.play(schedule)
        except AssertionError as stuck:
            found = [str(stuck)[:8000]]
        seconds = time.monotonic() - started
        longest = max(longest, seconds)
        sys.stdout.write(f"seed {seed}: {'kept' if not found else 'BROKEN'} in {seconds:.1f} s\n")
        if found:
            failed[seed] = found
            sys.stdout.write(f"{schedule}\n" + "\n".join(found) + "\n")
        sys.stdout.flush()
        _write(player.injected, range(first, seed + 1), failed, time.monotonic() - began, longest)
    assert failed == {}, f"replay with SEED=n make test-faults-long: {sorted(failed)}"


def _write(injected: Counter[str], seeds: range, failed: dict[int, list[str]], seconds: float, longest: float) -> None:
    path = Path(os.environ[OUTPUT])
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "schedules": len(seeds),
        "seeds": [seeds.start, seeds.stop - 1],
        "seconds": round(seconds, 1),
        "longest_seconds": round(longest, 1),
        "faults_injected": sum(injected.values()),
        "injected": dict(sorted(injected.items())),
        "violations": {str(seed): found for seed, found in failed.items()},
    }
    path.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    sys.exit(main())
