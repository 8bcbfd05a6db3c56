"""The trainer's life: wait for a run, do it, say how it went, wait again."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path

from core.base_model.allocator import return_freed_memory
from core.errors import LatentBankError
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.requests import (
    REQUEST,
    UNFORESEEN,
    Cancelled,
    Outcome,
    Reporter,
    RunRequest,
    failure,
    parse_request,
    waiting,
)

POLL_SECONDS = 0.2
TURN_SECONDS = 20.0
"""The other ranks hear from the first this often, so that they notice when it is gone."""


Distil = Callable[[RunRequest, Reporter, Callable[[], Collection[str]]], list[Outcome]]
"""Distils a run's memories; between steps it calls the last argument: which memories to go on without. That raises
`Cancelled`."""


def serve(inbox: Path, ranks: Ranks, distil: Distil, parent: int | None = None) -> None:
    """Runs until the parent process is gone (or for ever, where none is given)."""
    while True:
        found = ranks.from_first(_next(inbox, parent) if ranks.leads else None)
        if found == "stop":
            return
        if found is not None:
            run(Path(found), ranks, distil)
            return_freed_memory()


def run(directory: Path, ranks: Ranks, distil: Distil) -> None:
    """Does the run in `directory`; an unforeseen error ends all of its memories that have not ended before."""
    reporter = Reporter(directory, silent=not ranks.leads)
    try:
        request = parse_request(ranks.from_first((directory / REQUEST).read_text() if ranks.leads else ""))
    except LatentBankError as problem:
        reporter.result([], error=problem.message)
        return

    def left_out() -> Collection[str]:
        stop, out = ranks.from_first(
            (reporter.cancel_requested, {m.memory_id for m in request.memories if reporter.cancelled(m.memory_id)})
        )
        if stop:
            raise Cancelled
        return out

    try:
        reporter.result(distil(request, reporter, left_out))
    except Cancelled:
        reporter.result([], cancelled=True)
    except Exception as problem:
        # Standard error is the group's log, whose end the supervisor logs when an attempt fails.
        traceback.print_exception(problem)
        if not ranks.leads:
            # The other ranks wait for this one; the group's launcher ends them all.
            raise
        # What ends a run is no one memory's fault, whatever it is called.
        failed = {"code": UNFORESEEN, "message": str(failure(problem)["message"])}
        outcomes = [Outcome(memory.memory_id, str(memory.directory), error=failed) for memory in request.memories]
        reporter.result([outcome for outcome in outcomes if not reporter.told(outcome.memory_id)])


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
