"""The right to work on a claimed job, kept up by a heartbeat in a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType
from typing import Self

from core.logs import get_logger
from core.truth.records import Renewal

_log = get_logger(__name__)


class Lease:
    """Renews a claim every `heartbeat_seconds` while the `with` lasts; once lost, it stays lost.

    `renew` asks the truth and may raise: then the lease is held until `lease_seconds` after the last renewal that went
    through began, by this machine's monotonic clock, which never runs past the truth's own expiry. `on_lost` is called
    once, from the heartbeat's thread, as soon as the lease is lost: whoever works under it must be stopped.
    """

    def __init__(
        self,
        renew: Callable[[], Renewal],
        *,
        claimed_at: float,
        lease_seconds: float,
        heartbeat_seconds: float,
        on_lost: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._renew = renew
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._on_lost = on_lost
        self._clock = clock
        self._expires = claimed_at + lease_seconds
        self._lost = Event()
        self._cancelled = Event()
        self._done = Event()
        self._thread = Thread(target=self._keep, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def settle(self) -> None:
        """No more heartbeats: the write that ends the attempt is next, and a renewal after it is denied for no harm.

        What is left of the lease is the time that the write has.
        """
        self._done.set()

    @property
    def lost(self) -> bool:
        """True once the lease is lost; also by the clock alone, for whoever wakes before a late heartbeat does."""
        return self._lost.is_set() or self._clock() >= self._expires

    @property
    def cancelled(self) -> bool:
        """True once someone asked for the job to be cancelled."""
        return self._cancelled.is_set()

    def beat(self) -> None:
        """One heartbeat: renews, and notes what the truth says."""
        began = self._clock()
        try:
            renewal = self._renew()
        except Exception as problem:  # noqa: BLE001 - whatever keeps us from renewing counts down the same lease
            _log.warning("the lease could not be renewed", problem=str(problem), remaining=self._expires - began)
            if self._clock() >= self._expires and not self._done.is_set():
                self._lose()
            return
        if self._done.is_set():
            return
        if not renewal.held:
            self._lose()
            return
        self._expires = began + self._lease_seconds
        if renewal.cancel_requested:
            self._cancelled.set()

    def _keep(self) -> None:
        while not self._done.wait(self._pause()):
            self.beat()
            if self._lost.is_set():
                return

    def _pause(self) -> float:
        return max(0.0, min(self._heartbeat_seconds, self._expires - self._clock()))

    def _lose(self) -> None:
        if not self._lost.is_set():
            self._lost.set()
            _log.warning("the lease is lost; the group's work is discarded")
            self._on_lost()
