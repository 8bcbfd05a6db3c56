"""How the engine's own figures grow with rows, rank, slots, prefix and candidates; no rivals.

    python -m tests.benchmarks.serving_growth [--tokens 32] [--rounds 3] --json OUT

Every figure is measured once a round, and the JSON holds the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from core.adapters.packed import slot_bytes
from core.base_model.loading import LoadedBase, load_base
from core.base_model.prepare import ensure_prepared
from core.engine.rows import prefill
from core.settings import Settings
from tests.benchmarks.serving import ROWS, Bench, open_bench
from tests.benchmarks.telling import tell, write_report

BATCHES = (1, 2, 4, 8, 16, 32)
RANKS = (2, 6, 16)
SLOTS = (17, 65, 129)
PREFIXES = (32, 128, 512, 1024)
CANDIDATES = (0, 1, 3, 5, 8)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.serving_growth")
    parser.add_argument("--tokens", type=int, default=32, help="tokens that each row writes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("build/bench/serve-growth.json"))
    options = parser.parse_args()
    settings = Settings()
    description = ensure_prepared(settings.base_model, settings.base_dir)
    base = load_base(description)
    figures = _with_one_bench(base, settings, options.tokens, options.rounds)
    figures |= _with_other_slots(base, settings, options.tokens, options.rounds)
    report = {
        "command": shlex.join(["python", "-m", "tests.benchmarks.serving_growth", *sys.argv[1:]]),
        "load_average": os.getloadavg()[0],
        "base": description.name,
        **figures,
    }
    write_report(options.json, report)
    tell(f"{options.json} is written.")


def _with_one_bench(base: LoadedBase, settings: Settings, tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    bench = open_bench(base, settings, tokens, max(BATCHES) + 1)
    question = bench.prompts[0].prefix
    texts = {length: bench.prefix(length) for length in PREFIXES}
    before = {length: prefill(base.model, [text]) for length, text in texts.items()}
    found = {
        "tokens_per_s_by_rows": _medians(rounds, BATCHES, lambda rows: bench.decode(rows, True)),
        "tokens_per_s_by_rows_without_adapters": _medians(rounds, BATCHES, lambda rows: bench.decode(rows, False)),
        "tokens_per_s_by_prefix": _medians(rounds, PREFIXES, lambda length: bench.decode(ROWS, True, before[length])),
        "first_token_s_by_prefix": _medians(
            rounds, PREFIXES, lambda length: bench.first_token(bench.prefix(length), 0)
        ),
        "first_token_s_by_candidates": _medians(rounds, CANDIDATES, lambda k: bench.first_token(question, k)),
    }
    bench.adapters.remove()
    return found


def _with_other_slots(base: LoadedBase, settings: Settings, tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    def by_slots(slots: int) -> float:
        return _decoding(open_bench(base, settings, tokens, slots))

    def by_rank(rank: int) -> float:
        recipe = settings.recipe.model_copy(update={"rank": rank, "alpha": 2 * rank})
        return _decoding(open_bench(base, settings.model_copy(update={"recipe": recipe}), tokens))

    one = slot_bytes(base.model, settings.recipe.targets, settings.serving.max_rank)
    return {
        "tokens_per_s_by_slots": _medians(rounds, SLOTS, by_slots),
        "slot_bytes_by_slots": {str(slots): slots * one for slots in SLOTS},
        "tokens_per_s_by_rank": _medians(rounds, RANKS, by_rank),
    }


def _decoding(bench: Bench) -> float:
    try:
        return bench.decode(ROWS, True)
    finally:
        bench.adapters.remove()


def _medians(rounds: int, sizes: Sequence[int], measure: Callable[[int], float]) -> dict[str, float]:
    """Of each size in turn, once a round."""
    seen: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            seen[size].append(measure(size))
    medians = {str(size): round(statistics.median(values), 4) for size, values in seen.items()}
    tell(str(medians))
    return medians


if __name__ == "__main__":
    main()
