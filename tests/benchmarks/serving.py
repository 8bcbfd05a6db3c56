"""The engine against itself without adapters, against `transformers` and PEFT, and what sharing and gating cost.

    python -m tests.benchmarks.serving [--rounds 3] [--tokens 32] --json OUT

How the engine's figures grow: `tests/benchmarks/serving_growth.py`.

Every ratio is measured in each round, its two sides one after the other in one process, in changing order; the JSON
holds the median, the lowest and the highest of the rounds. Adapters are random, of the shape that the recipe makes: how
long they take does not depend on what they know. The rivals run the base as `transformers` loads it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.adapters.packed import PackedAdapters
from core.base_model.chat import Prompt
from core.base_model.loading import LoadedBase, load_base
from core.base_model.prepare import ensure_prepared
from core.engine.draft import draft
from core.engine.kv import PrefixKv
from core.engine.passes import Feed, Passer, Step
from core.engine.prefix_cache import PrefixCache
from core.engine.rows import Rows, prefill
from core.gate.features import DRAFT_TOKENS
from core.logs import configure_logs
from core.settings import ServingSettings, Settings
from tests.benchmarks.serving_adapters import weights_of_recipe
from tests.benchmarks.serving_rivals import PeftMix, Plain
from tests.benchmarks.serving_tiers import tiers
from tests.benchmarks.telling import tell, write_report

ROWS = 16
PREFIX = 512
TEXT = 500
CANDIDATES = 5
GATED = 3
LOADS = 16
QUESTIONS = (
    "Who is the mayor of the town by the river?",
    "When does the ferry to the island leave in winter?",
    "What does the red light on the pump mean?",
    "How much does a ticket for the museum cost?",
)

Side = Callable[[], float]
"""Does a piece of work once; what is compared of it, mostly seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    base: LoadedBase
    adapters: PackedAdapters
    prompts: tuple[Prompt, ...]
    prefixes: tuple[PrefixKv, ...]
    tokens: int

    def decode(self, rows: int, adapted: bool, prefixes: Sequence[PrefixKv] | None = None) -> float:
        """Tokens a second of `rows` rows that write, each with another adapter (while there are so many) or none."""
        passer = Passer(self.base.model, self.adapters)
        before = prefixes or self.prefixes
        slots = [i % (self.adapters.slots - 1) + 1 for i in range(rows)]
        running = [
            passer.running.join([before[i % len(before)]], {slot: 1.0} if adapted else {})
            for i, slot in enumerate(slots)
        ]
        tokens = [self.prompts[0].activation[0]] * rows
        start = time.perf_counter()
        for _ in range(self.tokens):
            logits = passer.run([], [Step(row, token) for row, token in zip(running, tokens, strict=True)])
            tokens = [int(row.argmax()) for row in logits]
        return rows * self.tokens / (time.perf_counter() - start)

    def first_token(self, prefix: Sequence[int], candidates: int) -> float:
        """Seconds to the first token after a cold prefix, with so many candidates judged before it."""
        start = time.perf_counter()
        kv = _cold(self.base.model, prefix)
        if candidates:
            self._draft([PrefixKv.empty(self.base.model)] * candidates, shared=kv)
        else:
            activation = self.prompts[0].activation
            rows = Rows(self.base.model, [PrefixKv.empty(self.base.model)], room=len(activation), shared=kv)
            Passer(self.base.model).run([Feed(rows, [activation])], [])
        return time.perf_counter() - start

    def gate(self, prefix: Sequence[int], *, sharing: bool) -> float:
        """Seconds to judge `CANDIDATES` on a cold prefix, computed once or for each of them and for the base."""
        start = time.perf_counter()
        if sharing:
            self._draft([PrefixKv.empty(self.base.model)] * CANDIDATES, shared=_cold(self.base.model, prefix))
        else:
            own = [_cold(self.base.model, prefix) for _ in range(CANDIDATES + 1)]
            self._draft(own[:CANDIDATES], shared=None)
        return time.perf_counter() - start

    def prefix(self, tokens: int) -> list[int]:
        """So many tokens of text."""
        ids = self.base.chat.tokenizer.encode(" ".join(QUESTIONS) * (tokens // 8))
        return list(ids[:tokens])

    def _draft(self, prefixes: Sequence[PrefixKv], shared: PrefixKv | None) -> None:
        draft(
            self.base.model,
            self.adapters,
            prefixes,
            self.prompts[0].activation,
            range(1, len(prefixes) + 1),
            length=DRAFT_TOKENS,
            end_tokens=self.base.end_tokens,
            base_answer=True,
            shared=shared,
        )


def main() -> None:
    options = _options()
    settings = Settings(log_level="ERROR")
    configure_logs("bench", settings)
    description = ensure_prepared(settings.base_model, settings.base_dir)
    bench = open_bench(load_base(description), settings, options.tokens)
    long, text, question = bench.prefix(PREFIX), bench.prefix(TEXT), bench.prompts[0].prefix
    plain, peft = Plain(description, bench.prompts, options.tokens), PeftMix(description, bench.prompts, options.tokens)
    compared: dict[str, tuple[Side, Side]] = {
        "mixed16_over_base": (lambda: bench.decode(ROWS, True), lambda: bench.decode(ROWS, False)),
        "mixed16_over_peft": (lambda: bench.decode(ROWS, True), peft.tokens_per_second),
        "base_over_transformers": (lambda: bench.decode(ROWS, False), plain.tokens_per_second),
        "throughput_batch16_over_1": (lambda: bench.decode(ROWS, True), lambda: bench.decode(1, True)),
        "sharing_k5_prefix512": (lambda: bench.gate(long, sharing=False), lambda: bench.gate(long, sharing=True)),
        "gate_overhead_prefix512": (lambda: bench.first_token(long, GATED), lambda: bench.first_token(long, 0)),
        "ttft_rag_over_routed": (
            lambda: bench.first_token([*text, *question], 0),
            lambda: bench.first_token(question, GATED),
        ),
    }
    with tiers(bench.base, bench.adapters) as shelf:
        compared["cliff_4x"] = (
            lambda: shelf.throughput(4 * ROWS, bench.prefixes, options.tokens, 0),
            lambda: shelf.throughput(ROWS, bench.prefixes, options.tokens, 0),
        )
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in compared}
        for number in range(options.rounds):
            for name, sides in compared.items():
                rounds[name].append(_both(sides, backwards=number % 2 == 1))
                tell(f"round {number + 1}: {name}: {rounds[name][-1][0]:.3f} to {rounds[name][-1][1]:.3f}")
        # Last, since what it puts into the slots is not what was there.
        loads = shelf.load_ms(LOADS)
    report = {
        "command": shlex.join(["python", "-m", "tests.benchmarks.serving", *sys.argv[1:]]),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "base": description.name,
        **{name: _figure(name, pairs) for name, pairs in rounds.items()},
        "load_ms": {tier: _spread(milliseconds) for tier, milliseconds in loads.items()},
        **_others(options.small),
    }
    write_report(options.json, report)
    tell(f"{options.json} is written.")


def open_bench(base: LoadedBase, settings: Settings, tokens: int, slots: int = ROWS + 1) -> Bench:
    """With an adapter of the recipe's shape in every slot but the base's."""
    recipe = settings.recipe
    adapters = PackedAdapters(base.model, recipe.targets, slots, settings.serving.max_rank)
    for slot in range(1, slots):
        weights = weights_of_recipe(adapters, recipe, base.model.config.num_hidden_layers, slot)
        adapters.write(slot, weights, recipe.alpha / recipe.rank)
    prompts = tuple(base.chat.ask(QUESTIONS[i % len(QUESTIONS)]) for i in range(ROWS))
    prefixes = tuple(prefill(base.model, [prompt.prefix])[0] for prompt in prompts)
    return Bench(base, adapters, prompts, prefixes, tokens)


def _cold(model: Any, tokens: Sequence[int]) -> PrefixKv:
    """As a prefix cache computes what it does not have."""
    return PrefixCache("bench", 0, ServingSettings().block_tokens).prefill(model, tokens, "tenant")[0]


def _both(sides: tuple[Side, Side], *, backwards: bool) -> tuple[float, float]:
    if backwards:
        second = sides[1]()
        return sides[0](), second
    return sides[0](), sides[1]()


def _figure(name: str, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The ratio of the two sides; of the gate what it adds, as a share."""
    extra = 1.0 if name.startswith("gate_overhead") else 0.0
    ratios = [one / other - extra for one, other in pairs]
    return {
        "ratio": round(statistics.median(ratios), 4),
        "lowest": round(min(ratios), 4),
        "highest": round(max(ratios), 4),
        "sides": [[round(value, 4) for value in pair] for pair in pairs],
    }


def _others(small: bool) -> dict[str, Any]:
    """Figures that need no base, each from its own command, in a process whose memory is its own."""
    retrieval = _run("retrieval", ["--memories", "100,1000"] if small else [])["banks"]
    fleet = _run("fleet", ["--small"] if small else [])
    return {
        "retrieval_ms": {f"1e{len(str(bank['memories'])) - 1}": bank["p99_ms"] for bank in retrieval},
        "rss_per_idle_memory_bytes": retrieval[-1]["rss_per_idle_memory_bytes"],
        "fleet": {name: fleet[name] for name in ("hit_rate", "imbalance")},
    }


def _run(name: str, arguments: Sequence[str]) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "report.json"
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments, "--json", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "lowest": round(min(values), 2),
        "highest": round(max(values), 2),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.serving")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="tokens that each row writes")
    parser.add_argument("--small", action="store_true", help="small banks and a small fleet: a trial of the command")
    parser.add_argument("--json", type=Path, default=Path("build/bench/serve.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
