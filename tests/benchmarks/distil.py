"""Our trainer against the plain loop: the same documents, questions, steps and rows, in turn on the same machine.

    python -m tests.benchmarks.distil --documents FILE.jsonl --limit N --rounds R --json build/bench/distill.json

A round is ours (all documents in one run) and then the plain loop (one document after another), each in a process of
its own, so that the peak of its memory is too. Self-study's questions are found once, before; the seconds of asking
them are part of ours as they happen, and are added to the plain loop's, which answers them itself. The base is loaded
before any clock starts, for the plain loop as `transformers` loads it, without our packed weights. The adapters of the
last round are then asked the documents' own questions, which neither side has seen. FILE.jsonl has a document a line:
`{id, title, text, questions: [{q, answers: […]}]}`.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.evaluation.scoring import is_right
from core.settings import RecipeSettings, Settings
from tests.benchmarks.suites import Document, documents_of
from tests.benchmarks.telling import tell, write_report

ROOT = Path(__file__).parents[2]


def main() -> None:
    options = _options()
    documents = documents_of(options.documents, options.limit, options.only)
    if not documents:
        raise SystemExit("There are no documents.")
    with tempfile.TemporaryDirectory(prefix="latentbank-bench-") as scratch:
        report = measure(documents, options, Path(scratch))
    write_report(options.json, report)
    print(json.dumps({key: report[key] for key in SHOWN}))  # noqa: T201


def measure(documents: Sequence[Document], options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything that the JSON holds."""
    load_average = os.getloadavg()[0]
    settings = Settings()
    recipe = RecipeSettings.model_validate(
        settings.recipe.model_dump() | dict(pair.split("=", 1) for pair in options.set)
    )
    work = {
        "base": options.base or settings.base_model,
        "base_dir": str((options.base_dir or settings.base_dir).absolute()),
        "encoder": settings.encoder,
        "recipe": recipe.model_dump(mode="json"),
        "directory": str(scratch),
        "titles": [document.title for document in documents],
        "texts": [document.text for document in documents],
        "asked": [[question.text for question in document.questions] for document in documents],
    }
    studied = _run("study", work, scratch)
    work["learnt"] = studied["learnt"]
    rounds = []
    for number in range(options.rounds):
        tell(f"round {number + 1} of {options.rounds}")
        ours = _run("ours", work, scratch)
        work["steps"] = ours["steps"]
        rounds.append((ours, _run("plain", work, scratch)))
    answers = scored(documents, _run("ask", work, scratch))
    return {
        **compared(rounds, studied, len(documents)),
        "accuracy_ours": _share([answer["right_ours"] for answer in answers]),
        "accuracy_plain": _share([answer["right_plain"] for answer in answers]),
        "documents": len(documents),
        "questions": len(answers),
        "questions_learnt": [len(questions) for questions in studied["learnt"]],
        "steps": work["steps"],
        "load_average": load_average,
        "load_average_after": os.getloadavg()[0],
        "recipe": {"ours": work["recipe"], "plain": rounds[-1][1]["recipe"]},
        "command": shlex.join(["python", "-m", "tests.benchmarks.distil", *sys.argv[1:]]),
        "answers": answers,
    }


def compared(rounds: Sequence[tuple[dict[str, Any], dict[str, Any]]], studied: dict[str, Any], documents: int) -> Any:
    """Seconds a memory, round by round, and how many times as fast ours is: median and range over the rounds."""
    seconds: dict[str, list[float]] = {}
    for spent in ("seconds", "cpu_seconds"):
        asking = sum(studied[spent])
        seconds[f"{spent}_ours"] = [round(sum(ours[spent]) / documents, 3) for ours, _ in rounds]
        seconds[f"{spent}_plain"] = [round((sum(plain[spent]) + asking) / documents, 3) for _, plain in rounds]
        seconds[f"{spent}_asking"] = [round(asking / documents, 3)]
    speedups = [plain / ours for ours, plain in zip(seconds["seconds_ours"], seconds["seconds_plain"], strict=True)]
    return {
        "speedup": round(statistics.median(speedups), 3),
        "speedup_spread": [round(min(speedups), 3), round(max(speedups), 3)],
        **seconds,
        "seconds_by_phase_ours": [ours["seconds_by_phase"] for ours, _ in rounds],
        "peak_rss_ours": max(ours["peak_rss"] for ours, _ in rounds),
        "peak_rss_plain": max(plain["peak_rss"] for _, plain in rounds),
    }


def scored(documents: Sequence[Document], answers: dict[str, list[list[str]]]) -> list[dict[str, Any]]:
    """Every question with both answers and whether they are right."""
    return [
        {
            "title": document.title,
            "question": question.text,
            "accepted": question.accepted,
            "ours": ours,
            "plain": plain,
            "right_ours": is_right(ours, question.accepted),
            "right_plain": is_right(plain, question.accepted),
        }
        for document, by_ours, by_plain in zip(documents, answers["ours"], answers["plain"], strict=True)
        for question, ours, plain in zip(document.questions, by_ours, by_plain, strict=True)
    ]


SHOWN = ("speedup", "speedup_spread", "accuracy_ours", "accuracy_plain", "seconds_ours", "seconds_plain")


def _run(side: str, work: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Does one part in a process of its own, whose words go to standard error."""
    tell(f"{side} …")
    given, result = scratch / "work.json", scratch / f"{side}.json"
    given.write_text(json.dumps(work))
    command = [sys.executable, "-m", "tests.benchmarks.distil_sides", side, str(given), str(result)]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr.fileno(), check=True)
    done: dict[str, Any] = json.loads(result.read_text())
    return done


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / max(1, len(values)), 4)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.distil")
    parser.add_argument("--documents", type=Path, default=None, help="a suite; default: ours, or examples/")
    parser.add_argument("--limit", type=int, default=4, help="how many of its documents")
    parser.add_argument("--only", default=None, help="the ids of the documents to draw on, with commas")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("build/bench/distill.json"))
    parser.add_argument("--set", action="append", default=[], help="a field of our recipe, such as steps=60")
    parser.add_argument("--base", default=None)
    parser.add_argument("--base-dir", type=Path, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
