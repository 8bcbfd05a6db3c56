"""The inference workers that are announced, read from the truth at most once in a while for however many questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from threading import Lock

from core.truth.records import WorkerRecord


class Announced:
    """Thread-safe. A list is used for `seconds` (0: once), an empty one only once, so that the first worker is seen."""

    def __init__(
        self,
        read: Callable[[], Iterable[WorkerRecord]],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._seconds = seconds
        self._clock = clock
        self._workers: Mapping[str, WorkerRecord] = {}
        self._read_at: float | None = None
        self._reading = Lock()

    def workers(self) -> Mapping[str, WorkerRecord]:
        """By id; not to be changed. May read the database."""
        with self._reading:
            read_at = self._read_at  # `doubt` may come in between
            if read_at is None or not self._workers or self._clock() >= read_at + self._seconds:
                # The time before the reading: what is announced meanwhile must not seem to have been seen.
                self._read_at = self._clock()
                try:
                    self._workers = {worker.id: worker for worker in self._read()}
                except BaseException:
                    self._read_at = None
                    raise
            return self._workers

    def doubt(self) -> None:
        """A worker of the list did not answer: the next question reads it anew. Never waits."""
        self._read_at = None
