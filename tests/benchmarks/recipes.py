"""Recipes compared: the same documents distilled by each, in one process a recipe, and asked the suite's questions.

    python -m tests.benchmarks.recipes --documents FILE.jsonl --only ID,ID --json OUT \
        --recipe default --recipe "rank 4:rank=4" --recipe "no near misses:near_misses=0"

A recipe is a name, and after a colon the fields of `RecipeSettings` in which it differs from today's. The trainer runs
here without the stack; drafts, gate and answers are those of `latentbank eval`, and so are the figures and intervals.
`--dump DIR` keeps each recipe's answers and what the gate saw.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from core.settings import RecipeSettings, Settings
from tests.benchmarks.suites import DEVELOPMENT_SUITE, chosen_of
from tests.benchmarks.telling import tell, write_report

ROOT = Path(__file__).parents[2]
SHOWN = (
    "accuracy.full_context",
    "accuracy.oracle",
    "accuracy.routed",
    "accuracy.wrong_adapter",
    "retention.oracle",
    "retention.routed",
    "gate.auroc_near_miss",
    "gate.auroc_unrelated",
    "gate.entropy_baseline_auroc",
    "gate.true_activation",
    "gate.false_activation_near_miss",
    "gate.false_activation_general",
)


def main() -> None:
    options = _options()
    if options.one:
        _one(json.loads(options.one), options.json)
        return
    suite = chosen_of(options.documents, options.only, options.limit)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "tests.benchmarks.recipes", *sys.argv[1:]]),
        "documents": [document.id for document in suite.documents],
        "recipes": {},
    }
    for text in options.recipe or ["default"]:
        name, _, changed = text.partition(":")
        settings = dict(pair.split("=", 1) for pair in changed.split(",") if pair)
        tell(f"== {name}")
        report["recipes"][name] = {"changed": settings, **_in_process(options, name, settings)}
        write_report(options.json, report)
        tell(json.dumps(report["recipes"][name], indent=1))
    print(table(report))  # noqa: T201


def table(report: dict[str, Any]) -> str:
    """The figures as Markdown, a recipe a line."""
    head = ["recipe", *SHOWN, "seconds", "bytes"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, made in report["recipes"].items():
        cells = [_cell(made["figures"].get(figure)) for figure in SHOWN]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {made['seconds_per_memory']:.1f} | {made['bytes_per_memory']} |"
        )
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _in_process(options: argparse.Namespace, name: str, changed: dict[str, str]) -> dict[str, Any]:
    work = {
        "suite": str(options.documents),
        "only": options.only,
        "limit": options.limit,
        "changed": changed,
        "dump": str(options.dump / name.replace(" ", "-")) if options.dump else None,
    }
    with tempfile.TemporaryDirectory(prefix="latentbank-recipe-") as scratch:
        result = Path(scratch) / "result.json"
        command = [sys.executable, "-m", "tests.benchmarks.recipes", "--one", json.dumps(work), "--json", str(result)]
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr.fileno(), check=True)
        found: dict[str, Any] = json.loads(result.read_text())
    return found


def _one(work: dict[str, Any], result: Path) -> None:
    """Distils and asks with one recipe."""
    from tests.benchmarks.recipe_bank import distil_here, figures_of

    settings = Settings()
    recipe = RecipeSettings.model_validate(settings.recipe.model_dump() | work["changed"])
    suite = chosen_of(Path(work["suite"]), work["only"], work["limit"])
    with tempfile.TemporaryDirectory(prefix="latentbank-recipe-") as scratch:
        directory = Path(work["dump"] or scratch)
        directory.mkdir(parents=True, exist_ok=True)
        started, load = time.monotonic(), os.getloadavg()[0]
        made = distil_here(settings, recipe, suite, directory, tell)
        seconds = time.monotonic() - started
        figures = figures_of(settings, suite, made, directory if work["dump"] else None, tell)
    result.write_text(
        json.dumps(
            {
                "figures": figures,
                "seconds_per_memory": (seconds - made.loading) / len(suite.documents),
                "seconds_by_phase": made.seconds_by_phase,
                "bytes_per_memory": made.bytes_per_memory,
                "training": made.training,
                "load_average": load,
            }
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recipes")
    parser.add_argument("--documents", type=Path, default=DEVELOPMENT_SUITE, help="a suite")
    parser.add_argument("--only", default=None, help="the ids of its documents to use, with commas")
    parser.add_argument("--limit", type=int, default=None, help="or so many, drawn with the seed 0")
    parser.add_argument("--recipe", action="append", default=[], help='"name" or "name:field=value,field=value"')
    parser.add_argument("--json", type=Path, default=Path("build/bench/recipes.json"))
    parser.add_argument("--dump", type=Path, default=None, help="keep adapters, answers and the gate's view there")
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
