"""A trainer that obeys the protocol and does nothing else.

    python -m tests.benchmarks.obedient_trainer TEMPLATE --inbox INBOX

Every memory goes through every phase, and gets the template's adapter with an index of its own; nothing is learnt.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from core.adapters.files import ADAPTER_FILES, INDEX_FILE
from core.jobs.states import PHASES, Phase

POLL_SECONDS = 0.005
_PHASES = tuple(phase for phase in PHASES if phase is not Phase.PUBLISHING)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("template", type=Path)
    parser.add_argument("--inbox", type=Path, required=True)
    options = parser.parse_args()
    while True:
        for request in options.inbox.glob("*/request.json"):
            if not (request.parent / "result.json").exists():
                serve(request.parent, options.template)
        time.sleep(POLL_SECONDS)


def serve(run: Path, template: Path) -> None:
    """One run; a directory that vanishes is one that its owner has ended."""
    try:
        memories = json.loads((run / "request.json").read_text())["memories"]
        with (run / "progress.jsonl").open("a") as progress:
            for number, phase in enumerate(_PHASES):
                for memory in memories:
                    told = {"phase": phase, "progress": number / len(_PHASES), "message": "Obeying."}
                    progress.write(json.dumps(told | {"data": {"memory_id": memory["memory_id"]}}) + "\n")
        (run / "outcomes").mkdir()
        outcomes = [_export(run, memory, template) for memory in memories]
        _finish(run / "result.json", {"ok": True, "memories": outcomes})
    except FileNotFoundError:
        return


def _export(run: Path, memory: dict[str, Any], template: Path) -> dict[str, Any]:
    directory, memory_id = Path(memory["directory"]), memory["memory_id"]
    for name in ADAPTER_FILES:
        if name != INDEX_FILE:
            os.link(template / name, directory / name)
    index = json.loads((template / INDEX_FILE).read_text())
    (directory / INDEX_FILE).write_text(json.dumps(index | {"memory_id": memory_id}))
    outcome = {"memory_id": memory_id, "directory": str(directory), "error": None, "seconds_by_phase": {}}
    outcome |= {"training": {}, "gate": {}}
    _finish(run / "outcomes" / f"{memory_id}.json", outcome)
    return outcome


def _finish(path: Path, fields: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(fields))
    partial.rename(path)


if __name__ == "__main__":
    main()
