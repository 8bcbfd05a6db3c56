"""The engine's thread: the only one that runs the base model.

Requests are generators of events. Those that run take turns, one step each, so that a long answer does not hold up a
short one and a request that waits for a slot holds up nobody. Continuous batching will replace the turn by one batched
step; what a request is, how it waits, and how it ends stay as they are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from core.errors import LatentBankError, Unavailable
from core.logs import bind, get_logger
from core.metrics import InferenceMetrics
from workers.inference.fair_queue import FairQueue
from workers.inference.question import Event, Waiting

MAX_RUNNING = 8
_PAUSE_SECONDS = 0.01

log = get_logger(__name__)

Work = Generator[Event, None, None]
Outcome = Event | LatentBankError | None


@dataclass(slots=True, eq=False)
class Ticket:
    """One request at the engine. `deliver` is called on the engine's thread: events, then an error or `None` once."""

    work: Work
    deliver: Callable[[Outcome], None]
    request_id: str
    waiting: bool = field(default=False, init=False)
    cancelled: bool = field(default=False, init=False)

    def cancel(self) -> None:
        """Nobody wants the answer any more; takes effect before the next step. May be called at any time."""
        self.cancelled = True


class Engine:
    """Runs tickets until it is stopped; those left then end with `Unavailable`."""

    def __init__(self, metrics: InferenceMetrics, max_running: int = MAX_RUNNING) -> None:
        self._metrics = metrics
        self._max_running = max_running
        self._queue: FairQueue[Ticket] = FairQueue()
        self._running: deque[Ticket] = deque()
        self._news = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def waiting(self) -> int:
        """Requests that wait for admission or for a slot."""
        with self._news:
            return len(self._queue) + sum(ticket.waiting for ticket in self._running)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the present step."""
        with self._news:
            self._stopped = True
            self._news.notify_all()
        self._thread.join()

    def submit(self, tenant_id: str, work: Work, deliver: Callable[[Outcome], None], request_id: str) -> Ticket:
        """Queues `work`. Raises `Unavailable` where the engine is stopped."""
        ticket = Ticket(work, deliver, request_id)
        with self._news:
            if self._stopped:
                raise Unavailable("This worker is shutting down.")
            self._queue.put(tenant_id, ticket)
            self._news.notify_all()
        return ticket

    def _run(self) -> None:
        while self._admit():
            progress = [self._step(ticket) for ticket in list(self._running)]
            if progress and not any(progress):
                with self._news:
                    self._news.wait(_PAUSE_SECONDS)
        self._abandon()

    def _admit(self) -> bool:
        """Fills the running set, sleeps while there is nothing to do; false when stopped."""
        with self._news:
            while True:
                while len(self._running) < self._max_running and (ticket := self._queue.take()) is not None:
                    self._running.append(ticket)
                if self._running or self._stopped:
                    break
                self._show()
                self._news.wait()
            self._show()
            return not self._stopped

    def _step(self, ticket: Ticket) -> bool:
        """One step of one request; whether it did anything."""
        if ticket.cancelled:
            self._end(ticket, None)
            return True
        with bind(request_id=ticket.request_id):
            try:
                event = next(ticket.work, None)
            except LatentBankError as problem:
                self._end(ticket, problem)
                return True
            except Exception:
                # A boundary: one request's failure must not end the engine.
                log.exception("a request failed in the engine")
                self._end(ticket, LatentBankError("The request failed inside the worker."))
                return True
        if event is None:
            self._end(ticket, None)
            return True
        ticket.waiting = isinstance(event, Waiting)
        if not ticket.waiting:
            ticket.deliver(event)
        return not ticket.waiting

    def _end(self, ticket: Ticket, problem: LatentBankError | None) -> None:
        with self._news:
            self._running.remove(ticket)
        # Closing runs the generator's `finally`, which gives its slots back.
        ticket.work.close()
        ticket.deliver(problem)

    def _abandon(self) -> None:
        with self._news:
            while (ticket := self._queue.take()) is not None:
                self._running.append(ticket)
        for ticket in list(self._running):
            self._end(ticket, Unavailable("This worker is shutting down."))

    def _show(self) -> None:
        held_up = sum(ticket.waiting for ticket in self._running)
        self._metrics.requests_running.set(len(self._running) - held_up)
        self._metrics.requests_waiting.set(len(self._queue) + held_up)
