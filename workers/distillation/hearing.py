"""Whether doorbells still reach this worker.

A broker's client may lose its connection and not find out: the process lives, announces itself, and hears nothing any
more. The truth knows better: jobs that left the backlog long ago, and were rung for again and again, still wait.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable

from sqlalchemy import Connection

from core.truth import jobs


class Hearing:
    """Shared by the supervisor and its pool process, which says when it begins and ends something.

    Deaf is who has had nothing to do for `silence_seconds` while a job has waited for an answer for as long.
    """

    def __init__(self, silence_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._silence_seconds = silence_seconds
        self._clock = clock
        # Without a lock, which a killed process could leave held; the clock is the same in all processes of a machine.
        self._active = multiprocessing.RawValue("d", clock())

    def noted(self) -> None:
        """The worker does something."""
        self._active.value = self._clock()

    def is_deaf(self, connection: Connection) -> bool:
        silent = self._clock() - self._active.value >= self._silence_seconds
        return silent and jobs.rings_unheard(connection, self._silence_seconds)
