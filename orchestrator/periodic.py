"""A duty done again and again in its own thread, so that a slow one holds up no other."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

from core.logs import get_logger

_log = get_logger(__name__)


class Periodic:
    """Calls `duty` every `interval_seconds` until `stop` is set; a failure is logged and ends nothing."""

    def __init__(self, name: str, interval_seconds: float, duty: Callable[[], object], stop: Event) -> None:
        self._name = name
        self._interval = interval_seconds
        self._duty = duty
        self._stop = stop
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_seconds: float) -> bool:
        """Whether it has come to its end."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._duty()
            except Exception:  # noqa: BLE001 - the boundary of this duty: database or broker may be away for a while
                _log.exception("duty failed", duty=self._name)
            self._stop.wait(self._interval)
