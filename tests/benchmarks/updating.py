"""A new version of a context, distilled from the old version's adapter and from scratch: seconds and right answers.

    python -m tests.benchmarks.updating --documents FILE.jsonl --only ID,ID --json OUT

The old version of each document has every number of its text one larger. Three runs of all documents in one process:
the old version, the document from scratch, the document from the old version's adapter. The documents' own questions
are then asked with each adapter; `stale` are answers with the old version's number in place of the right one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.adapters.packed import PackedAdapters
from core.adapters.peft_format import load_adapter
from core.base_model.loading import load_base
from core.base_model.prepare import prepare
from core.evaluation.answering import Answerer, Ask
from core.evaluation.scoring import is_right
from core.evaluation.suite import Suite
from core.settings import Settings
from tests.benchmarks.recipe_bank import Distilled, distil_here
from tests.benchmarks.suites import DEVELOPMENT_SUITE, chosen_of
from tests.benchmarks.telling import tell, write_report

_NUMBER = re.compile(r"\d+")


def main() -> None:
    options = _options()
    suite = chosen_of(options.documents, options.only, None)
    settings = Settings()
    with tempfile.TemporaryDirectory(prefix="latentbank-updating-") as scratch:
        made: dict[str, Distilled] = {}
        for name, documents, start in (("old", older(suite), None), ("scratch", suite, None), ("update", suite, "old")):
            directory = Path(scratch) / name
            directory.mkdir()
            starts = made[start].directories if start else {}
            made[name] = distil_here(settings, settings.recipe, documents, directory, tell, starts)
        rights = {name: _answered(settings, suite, made[name].directories) for name in ("scratch", "update")}
    report = {
        "command": shlex.join(["python", "-m", "tests.benchmarks.updating", *sys.argv[1:]]),
        "load_average": os.getloadavg()[0],
        "documents": [document.id for document in suite.documents],
        "seconds_by_phase": {name: dict(one.seconds_by_phase) for name, one in made.items()},
        "training": {name: {k: dict(v) for k, v in one.training.items()} for name, one in made.items()},
        **{f"accuracy_{name}": found["right"] for name, found in rights.items()},
        **{f"stale_{name}": found["stale"] for name, found in rights.items()},
        "answers": {name: found["answers"] for name, found in rights.items()},
    }
    write_report(options.json, report)
    print(json.dumps({k: v for k, v in report.items() if k not in ("answers", "training")}))  # noqa: T201


def older(suite: Suite) -> Suite:
    """The suite with each document as its old version was."""
    return replace(suite, documents=tuple(replace(one, text=older_text(one.text)) for one in suite.documents))


def older_text(text: str) -> str:
    """Every whole number one larger; "6,140" is two numbers, which keeps it as well formed as it was."""
    return _NUMBER.sub(lambda found: str(int(found.group()) + 1).zfill(len(found.group())), text)


def _answered(settings: Settings, suite: Suite, directories: Mapping[str, Path]) -> dict[str, Any]:
    base = load_base(prepare(settings.base_model, settings.base_dir))
    adapters = {name: load_adapter(directory) for name, directory in directories.items()}
    recipe = settings.recipe
    packed = PackedAdapters(base.model, recipe.targets, len(adapters) + 1, recipe.rank)
    slots = {name: slot for slot, name in enumerate(adapters, 1)}
    for name, adapter in adapters.items():
        packed.write(slots[name], adapter.weights, adapter.scale)
    questions = [question for question in suite.questions if question.role == "document"]
    asks = {q.id: Ask(q.text, document_id=q.documents[0]) for q in questions}
    answers = Answerer(base, packed, slots).answers(list(asks.values()))
    right = [is_right(answers[asks[q.id]], q.answers) for q in questions]
    stale = [
        is_right(answers[asks[q.id]], [older_text(one) for one in q.answers if _NUMBER.search(one)]) for q in questions
    ]
    return {
        "right": _share(right),
        "stale": _share(stale),
        "answers": {q.text: answers[asks[q.id]] for q in questions},
    }


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / max(1, len(values)), 4)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.updating")
    parser.add_argument("--documents", type=Path, default=DEVELOPMENT_SUITE, help="a suite")
    parser.add_argument("--only", default=None, help="the ids of its documents to use, with commas")
    parser.add_argument("--json", type=Path, default=Path("build/bench/updating.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
