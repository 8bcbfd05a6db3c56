"""The right to work on claimed jobs, kept up by one heartbeat for all jobs of a pack, in a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Self

from core.logs import get_logger
from core.truth.records import Claim, Renewal

_log = get_logger(__name__)


class Lease:
    """The right to work on one claimed job, as far as this machine knows; once lost, it stays lost.

    It is held until `lease_seconds` after the last renewal that went through began, by this machine's monotonic clock,
    which never runs past the truth's own expiry.
    """

    def __init__(
        self, claim: Claim, *, claimed_at: float, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.claim = claim
        self._lease_seconds = lease_seconds
        self._clock = clock
        self.expires = claimed_at + lease_seconds
        self._lost = Event()
        self._cancelled = Event()
        self._settled = Event()

    @property
    def lost(self) -> bool:
        """True once the lease is lost; also by the clock alone, for whoever wakes before a late heartbeat does."""
        return self._lost.is_set() or self._clock() >= self.expires

    @property
    def cancelled(self) -> bool:
        """True once someone asked for the job to be cancelled."""
        return self._cancelled.is_set()

    @property
    def kept(self) -> bool:
        """Whether the heartbeat is to renew it."""
        return not self._settled.is_set() and not self._lost.is_set()

    def settle(self) -> None:
        """No more heartbeats: the write that ends the attempt is next, and a renewal after it is denied for no harm.

        What is left of the lease is the time that the write has.
        """
        self._settled.set()

    def renewed(self, began: float, renewal: Renewal) -> None:
        """Notes what the truth said to a renewal that began at `began`."""
        if not self.kept:
            return
        if not renewal.held:
            self.lose()
            return
        self.expires = began + self._lease_seconds
        if renewal.cancel_requested:
            self._cancelled.set()

    def missed(self) -> None:
        """Notes a renewal that did not go through; it counts once the time is up."""
        if self.kept and self._clock() >= self.expires:
            self.lose()

    def lose(self) -> None:
        if not self._lost.is_set():
            self._lost.set()
            _log.warning("the lease is lost; its work is discarded", job_id=self.claim.job.id)


class Heartbeat:
    """Renews leases every `heartbeat_seconds` while the `with` lasts, all of them at once.

    `renew` asks the truth, and answers claim by claim; it may raise. `on_all_lost` is called from the heartbeat's
    thread when a lease is lost and none is left to keep: whoever works under them must be stopped.
    """

    def __init__(
        self,
        renew: Callable[[Sequence[Claim]], Sequence[Renewal]],
        *,
        heartbeat_seconds: float,
        on_all_lost: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._renew = renew
        self._heartbeat_seconds = heartbeat_seconds
        self._on_all_lost = on_all_lost
        self._clock = clock
        self._leases: list[Lease] = []
        self._changing = Lock()
        self._done = Event()
        self._thread = Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def keep(self, lease: Lease) -> None:
        """Renews this one too, from the next beat on."""
        with self._changing:
            self._leases.append(lease)

    def beat(self) -> None:
        """One heartbeat: renews what is kept, and notes what the truth says."""
        kept = self._kept()
        if not kept:
            return
        began = self._clock()
        try:
            renewals = self._renew([lease.claim for lease in kept])
        except Exception as problem:  # noqa: BLE001 - whatever keeps us from renewing counts down the same leases
            _log.warning("the leases could not be renewed", problem=str(problem), leases=len(kept))
            for lease in kept:
                lease.missed()
        else:
            for lease, renewal in zip(kept, renewals, strict=True):
                lease.renewed(began, renewal)
        if any(lease.lost for lease in kept) and not self._kept():
            self._on_all_lost()

    def _run(self) -> None:
        while not self._done.wait(self._pause()):
            self.beat()

    def _kept(self) -> list[Lease]:
        with self._changing:
            return sorted((lease for lease in self._leases if lease.kept), key=lambda lease: lease.claim.job.id)

    def _pause(self) -> float:
        soonest = min((lease.expires for lease in self._kept()), default=float("inf"))
        return max(0.0, min(self._heartbeat_seconds, soonest - self._clock()))
