"""The bench of our trainer against the plain loop runs end to end, with a tiny real Llama."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from core.base_model.description import BaseDescription
from tests.benchmarks.distil import ROOT

DOCUMENTS = (
    {
        "title": "Skarvholm",
        "text": "The keeper of Skarvholm is Ingrid Falk. The light of Skarvholm was built in 1887.",
        "questions": [{"q": "Who keeps Skarvholm?", "answers": ["Ingrid Falk"]}],
    },
    {
        "title": "Admiral",
        "text": "Admiral is a grey parrot. The cage of Admiral cost 40 crowns.",
        "questions": [{"q": "What is Admiral?", "answers": ["parrot"]}, {"q": "What cost 40?", "answers": ["cage"]}],
    },
    {"kind": "general", "questions": [{"q": "What is the capital of France?", "answers": ["Paris"]}]},
)
RECIPE = {"steps": 2, "passes": 0.1, "batch_rows": 4, "max_pairs": 8, "question_tokens": 8, "answer_tokens": 8}


def test_both_sides_run_and_are_compared(tiny_base: BaseDescription, tmp_path: Path) -> None:
    suite, out = tmp_path / "suite.jsonl", tmp_path / "bench" / "distill.json"
    suite.write_text("\n".join(json.dumps(document) for document in DOCUMENTS))
    arguments = ["--documents", str(suite), "--rounds", "1", "--json", str(out)]
    arguments += ["--base", tiny_base.reference, "--base-dir", str(tiny_base.path.parent)]
    arguments += [part for name, value in RECIPE.items() for part in ("--set", f"{name}={value}")]
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.distil", *arguments],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    report = json.loads(out.read_text())
    assert (report["documents"], report["questions"], report["steps"]) == (2, 3, [2, 2])
    for side in ("ours", "plain"):
        assert 0 <= report[f"accuracy_{side}"] <= 1
        assert report[f"peak_rss_{side}"] > 50 * 2**20
        assert len(report[f"seconds_{side}"]) == len(report[f"cpu_seconds_{side}"]) == 1
        assert report["recipe"][side]["rank"] > 0
    lowest, highest = report["speedup_spread"]
    assert 0 < lowest <= report["speedup"] <= highest
    assert "tests.benchmarks.distil" in report["command"]
    assert "load_average" in report
    # Two steps of 4 rows are one of the 8 that the plain loop takes.
    assert "plain: Admiral: step 1 of 1" in run.stderr
