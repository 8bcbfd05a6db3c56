"""The engine's thread: the only one that runs the base model.

Requests are generators of events. Between two events a request may ask for a pass of the model; what all of them ask
for runs as one (continuous batching, Orca, OSDI 2022): rows that write go on in every pass, and prompts and drafts join
them in turn, so many tokens a pass. So a long prompt does not hold up those who write, and a request that waits for a
slot holds up nobody.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from core.engine.passes import Feed, Step
from core.errors import LatentBankError, Overloaded, Unavailable
from core.logs import bind, get_logger
from core.metrics import InferenceMetrics
from core.settings import ServingSettings
from workers.inference.fair_queue import FairQueue
from workers.inference.question import Event, Waiting

_PAUSE_SECONDS = 0.01

log = get_logger(__name__)

Asked = Feed | Step
Work = Generator[Event | Asked, Tensor, None]
Outcome = Event | LatentBankError | None


class Runner(Protocol):
    """Runs one pass."""

    def run(self, feeds: Sequence[Feed], steps: Sequence[Step]) -> list[Tensor]:
        """Logits of all feeds and then of all steps."""

    def reset(self) -> None:
        """Called after a pass failed, when all its requests have ended."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request at the engine. `deliver` is called on the engine's thread: events, then an error or `None` once.

    `submitted` is on the engine's clock; `adapters` are the digests that it needs in slots to begin.
    """

    work: Work
    deliver: Callable[[Outcome], None]
    request_id: str
    submitted: float
    adapters: frozenset[str] = frozenset()
    asked: Asked | None = field(default=None, init=False)
    logits: Tensor | None = field(default=None, init=False)
    waiting: bool = field(default=False, init=False)
    begun: bool = field(default=False, init=False)
    cancelled: bool = field(default=False, init=False)

    def cancel(self) -> None:
        """Nobody wants the answer any more; takes effect before the next pass. May be called at any time."""
        self.cancelled = True

    def was_left(self) -> bool:
        """Whether it was cancelled, by now: another thread may do so at any time."""
        return self.cancelled


class Engine:
    """Runs tickets until it is stopped; those left then end with `Unavailable`."""

    def __init__(
        self,
        runner: Runner,
        metrics: InferenceMetrics,
        settings: ServingSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._runner = runner
        self._metrics = metrics
        self._settings = settings
        self._queue: FairQueue[Ticket] = FairQueue()
        self._running: deque[Ticket] = deque()
        self._expected = 0
        self._news = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def waiting(self) -> int:
        """Requests that wait for admission, for a slot, or for what they need to be submitted at all."""
        with self._news:
            # A copy: the engine's thread puts its rows in another order without the lock.
            return self._expected + len(self._queue) + sum(ticket.waiting for ticket in list(self._running))

    @property
    def running(self) -> int:
        """Requests that are admitted and wait for nothing."""
        with self._news:
            return self._active()

    @property
    def waiting_for(self) -> frozenset[str]:
        """Digests of the adapters that requests which wait will need."""
        with self._news:
            held_up = [ticket for ticket in list(self._running) if ticket.waiting]
            return frozenset().union(*(ticket.adapters for ticket in [*self._queue, *held_up]))

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the present pass."""
        with self._news:
            self._stopped = True
            self._news.notify_all()
        self._thread.join()

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """A request is made ready meanwhile, which may take a download; it counts among those that wait.

        Raises `Overloaded` where there would be no place for it.
        """
        with self._news:
            free = max(0, self._settings.max_running - len(self._running))
            if self._expected + len(self._queue) >= self._settings.max_waiting + free:
                raise Overloaded
            self._expected += 1
        try:
            yield
        finally:
            with self._news:
                self._expected -= 1

    def show(self) -> None:
        """Sets the gauges of requests, for a scrape that may come while the engine sleeps."""
        with self._news:
            self._show()

    def submit(
        self,
        tenant_id: str,
        work: Work,
        deliver: Callable[[Outcome], None],
        request_id: str,
        adapters: Collection[str] = (),
    ) -> Ticket:
        """Queues `work`. Raises `Unavailable` where the engine is stopped, `Overloaded` where too many wait."""
        ticket = Ticket(work, deliver, request_id, self._clock(), frozenset(adapters))
        with self._news:
            if self._stopped:
                raise Unavailable("This worker is shutting down.")
            if len(self._queue) >= self._settings.max_waiting:
                raise Overloaded
            self._queue.put(tenant_id, ticket)
            self._news.notify_all()
        return ticket

    def turn(self) -> bool:
        """Ends who waited in vain, admits who can be, lets all go on, and runs one pass for them; false without one.

        For the engine's own thread, and for those who want to take its turns themselves instead of starting it.
        """
        with self._news:
            over = self._queue.take_first_while(lambda ticket: ticket.cancelled or self._is_late(ticket))
            while self._has_room() and (ticket := self._queue.take()) is not None:
                self._running.append(ticket)
            self._show()
        for ticket in over:
            _close(ticket, None if ticket.cancelled else Overloaded())
        for ticket in list(self._running):
            self._advance(ticket)
        if self._stopped:
            return False
        chosen = self._choose()
        if chosen:
            self._pass(chosen)
        return bool(chosen)

    def _has_room(self) -> bool:
        """Who waits for a slot takes no place of those that run; but so many wait at the most."""
        most = self._settings.max_running
        return self._active() < most and len(self._running) < 2 * most

    def _active(self) -> int:
        # A copy: the engine's thread puts its rows in another order without the lock.
        return sum(not ticket.waiting for ticket in list(self._running))

    def _run(self) -> None:
        try:
            while self._wait():
                if not self.turn() and self._running:
                    with self._news:
                        self._news.wait(_PAUSE_SECONDS)
        finally:
            # Whatever ended it, nobody is left without an outcome.
            self._abandon()

    def _wait(self) -> bool:
        """Sleeps while there is nothing to do; false when stopped."""
        with self._news:
            while not (self._running or len(self._queue) or self._stopped):
                self._show()
                self._news.wait()
            return not self._stopped

    def _advance(self, ticket: Ticket) -> None:
        """Lets a request go on until it needs the model, has to wait, or is through."""
        if ticket.cancelled:
            self._end(ticket, None)
            return
        if not ticket.begun and self._is_late(ticket):
            self._end(ticket, Overloaded())
            return
        if ticket.waiting and self._active() >= self._settings.max_running:
            return
        with bind(request_id=ticket.request_id):
            while ticket.asked is None and not (ticket.cancelled or self._stopped):
                try:
                    event = self._resume(ticket)
                except StopIteration:
                    self._end(ticket, None)
                    return
                except LatentBankError as problem:
                    self._end(ticket, problem)
                    return
                except Exception:
                    # A boundary: one request's failure must not end the engine.
                    log.exception("a request failed in the engine")
                    self._end(ticket, LatentBankError("The request failed inside the worker."))
                    return
                ticket.waiting = isinstance(event, Waiting)
                ticket.begun |= not ticket.waiting
                if isinstance(event, Feed | Step):
                    ticket.asked = event
                elif ticket.waiting:
                    return
                else:
                    ticket.deliver(event)
        if ticket.asked is None and ticket.was_left():
            # Now, since a pass takes a token from every row that runs.
            self._end(ticket, None)

    @staticmethod
    def _resume(ticket: Ticket) -> Event | Asked:
        logits, ticket.logits = ticket.logits, None
        return next(ticket.work) if logits is None else ticket.work.send(logits)

    def _choose(self) -> list[Ticket]:
        """Whose passes run now: all that write, and of the others the longest not served, as many as the pass takes."""
        writing = [ticket for ticket in self._running if isinstance(ticket.asked, Step)]
        feeding: list[Ticket] = []
        room = self._settings.pass_tokens
        for ticket in self._running:
            if isinstance(ticket.asked, Feed) and (not feeding or ticket.asked.size <= room):
                feeding.append(ticket)
                room -= ticket.asked.size
        for ticket in feeding:
            self._running.remove(ticket)
            self._running.append(ticket)
        return [*feeding, *writing]

    def _pass(self, tickets: Sequence[Ticket]) -> None:
        asked = [ticket.asked for ticket in tickets]
        feeds = [one for one in asked if isinstance(one, Feed)]
        steps = [one for one in asked if isinstance(one, Step)]
        try:
            results = self._runner.run(feeds, steps)
        except Exception:
            # A boundary: whatever the pass left behind belongs to these requests, and goes with them.
            log.exception("a pass of the model failed", feeds=len(feeds), steps=len(steps))
            for ticket in tickets:
                self._end(ticket, LatentBankError("The request failed inside the worker."))
            self._runner.reset()
            return
        for ticket, logits in zip(tickets, results, strict=True):
            ticket.asked, ticket.logits = None, logits

    def _end(self, ticket: Ticket, problem: LatentBankError | None) -> None:
        with self._news:
            self._running.remove(ticket)
        ticket.waiting = False
        _close(ticket, problem)

    def _is_late(self, ticket: Ticket) -> bool:
        return self._clock() > ticket.submitted + self._settings.max_waiting_seconds

    def _abandon(self) -> None:
        with self._news:
            self._stopped = True
            while (ticket := self._queue.take()) is not None:
                self._running.append(ticket)
        for ticket in list(self._running):
            self._end(ticket, Unavailable("This worker is shutting down."))

    def _show(self) -> None:
        running = list(self._running)
        held_up = sum(ticket.waiting for ticket in running)
        self._metrics.requests_running.set(len(running) - held_up)
        self._metrics.requests_waiting.set(self._expected + len(self._queue) + held_up)


def _close(ticket: Ticket, problem: LatentBankError | None) -> None:
    """The ticket's end; closing runs the generator's `finally`, which gives its slots back."""
    try:
        ticket.work.close()
    except Exception:
        # A boundary: what one request leaves behind must not keep the others from their end.
        log.exception("a request could not tidy up")
    ticket.deliver(problem)
