"""The worker's sign of life in the truth, from a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from core.logs import get_logger
from core.truth import workers
from core.truth.database import Database

_log = get_logger(__name__)


class Announcement:
    """Announces the worker every third of its time to live, from `begin` on; withdraws it at `end`.

    `each_time` is called with every announcement, in its transaction.
    """

    def __init__(
        self,
        database: Database,
        worker_id: str,
        url: str,
        info: dict[str, Any],
        ttl_seconds: float,
        each_time: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        self._each_time = each_time
        self._database = database
        self._worker_id = worker_id
        self._url = url
        self._info = info
        self._ttl_seconds = ttl_seconds
        self._ended = Event()
        self._thread = Thread(target=self._repeat, name="announcement", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Withdraws soon; may be called from a signal handler, any number of times."""
        self._ended.set()

    def end(self) -> None:
        """Stops, and waits for the withdrawal."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _repeat(self) -> None:
        while True:
            try:
                with self._database.begin() as connection:
                    if self._ended.is_set():
                        workers.withdraw(connection, self._worker_id)
                        return
                    workers.announce(
                        connection, self._worker_id, "distillation", self._url, self._info, self._ttl_seconds
                    )
                    self._each_time(connection)
            except SQLAlchemyError as problem:
                _log.warning("the worker could not be announced", problem=str(problem))
                if self._ended.is_set():
                    return
            self._ended.wait(self._ttl_seconds / 3)
