"""Progress of a run as events of its job: forward only, and not more often than people read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.jobs.states import PHASES, Phase
from workers.distillation.runs import Progress

EVENT_SECONDS = 2.0
RUN_SHARE = 0.95
"""The part of a job's progress that the run covers; publishing has the rest."""


@dataclass(frozen=True, slots=True)
class Report:
    """What is passed on of a line: phase, progress over the whole job, words."""

    phase: Phase
    progress: float
    message: str
    data: dict[str, Any]


class Reports:
    """Passes a line on when its phase is new, or when the last one passed on is old enough.

    A phase that the job has left, or that is none, counts as the present one.
    """

    def __init__(self, *, every_seconds: float = EVENT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_seconds = every_seconds
        self._clock = clock
        self._phase: Phase | None = None
        self._passed_on = 0.0

    def due(self, line: Progress) -> Report | None:
        phase = _forward(self._phase, line.phase)
        now = self._clock()
        if phase is self._phase and now - self._passed_on < self._every_seconds:
            return None
        self._phase, self._passed_on = phase, now
        return Report(phase, line.progress * RUN_SHARE, line.message, line.data)


def _forward(present: Phase | None, named: str) -> Phase:
    order = PHASES[: PHASES.index(Phase.PUBLISHING)]
    phase = Phase(named) if named in order else (present or order[0])
    return phase if present is None or order.index(phase) >= order.index(present) else present
