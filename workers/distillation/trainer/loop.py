"""The trainer's life: wait for a run, do it memory by memory, say how it went, wait again."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import LatentBankError
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.requests import (
    REQUEST,
    MemoryRequest,
    Outcome,
    Reporter,
    RunRequest,
    parse_request,
    waiting,
)

POLL_SECONDS = 0.2
TURN_SECONDS = 20.0
"""The other ranks hear from the first this often, so that they notice when it is gone."""


class Cancelled(Exception):
    """The run's cancel file appeared."""


Distil = Callable[[RunRequest, MemoryRequest, Reporter, Callable[[], None]], Outcome]
"""Distils one memory; calls the last argument between steps, which raises `Cancelled`."""


def serve(inbox: Path, ranks: Ranks, distil: Distil, parent: int | None = None) -> None:
    """Runs until the parent process is gone (or for ever, where none is given)."""
    while True:
        found = ranks.from_first(_next(inbox, parent) if ranks.leads else None)
        if found == "stop":
            return
        if found is not None:
            run(Path(found), ranks, distil)


def run(directory: Path, ranks: Ranks, distil: Distil) -> None:
    """Does the run in `directory`; an error in one memory leaves the others alone."""
    reporter = Reporter(directory, silent=not ranks.leads)
    try:
        request = parse_request(ranks.from_first((directory / REQUEST).read_text() if ranks.leads else ""))
    except LatentBankError as problem:
        reporter.result([], error=problem.message)
        return

    def check() -> None:
        if ranks.from_first(reporter.cancel_requested):
            raise Cancelled

    outcomes: list[Outcome] = []
    for memory in request.memories:
        try:
            outcomes.append(distil(request, memory, reporter, check))
        except Cancelled:
            reporter.result(outcomes, cancelled=True)
            return
        except Exception as problem:  # noqa: BLE001 - the boundary of one memory
            outcomes.append(Outcome(memory.memory_id, str(memory.directory), error=_described(problem)))
        reporter.outcome(outcomes[-1])
    reporter.result(outcomes)


def _described(problem: Exception) -> dict[str, Any]:
    if isinstance(problem, LatentBankError):
        return {"code": problem.code, "message": problem.message}
    # Standard error is the group's log, whose end the supervisor logs when an attempt fails.
    traceback.print_exception(problem)
    return {"code": "distillation_failed", "message": type(problem).__name__}


def _next(inbox: Path, parent: int | None) -> str | None:
    """The next run's directory, "stop", or `None` after `TURN_SECONDS` without one."""
    end = time.monotonic() + TURN_SECONDS
    while time.monotonic() < end:
        if parent is not None and not _alive(parent):
            return "stop"
        if (found := waiting(inbox)) is not None:
            return str(found)
        time.sleep(POLL_SECONDS)
    return None


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
