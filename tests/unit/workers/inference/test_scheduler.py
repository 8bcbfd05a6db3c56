from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import pytest
from prometheus_client import CollectorRegistry
from torch import Tensor

from core.engine.passes import Feed, Step
from core.errors import LatentBankError, NotFound, Unavailable
from core.metrics import InferenceMetrics
from workers.inference.fair_queue import FairQueue
from workers.inference.question import Delta, Waiting
from workers.inference.scheduler import Engine, Outcome, Work

TIMEOUT = 10


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(NoModel(), InferenceMetrics(CollectorRegistry()), max_running=2)
    engine.start()
    yield engine
    engine.stop()


class NoModel:
    """For requests that need none."""

    def run(self, feeds: Sequence[Feed], steps: Sequence[Step]) -> list[Tensor]:
        raise AssertionError("nobody asks for a pass")

    def reset(self) -> None:
        pass


class Inbox:
    """What one request was delivered."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[Outcome] = queue.Queue()

    def texts(self) -> list[str]:
        found = []
        while (outcome := self.arrived.get(timeout=TIMEOUT)) is not None:
            if isinstance(outcome, LatentBankError):
                raise outcome
            assert isinstance(outcome, Delta)
            found.append(outcome.text)
        return found


def work(*texts: str) -> Work:
    for text in texts:
        yield Delta(text)


def test_a_request_is_delivered_in_order_and_then_ends(engine: Engine) -> None:
    inbox = Inbox()
    engine.submit("t", work("a", "b"), inbox.arrived.put, "r")
    assert inbox.texts() == ["a", "b"]


def test_a_failing_request_hears_why_and_others_go_on(engine: Engine) -> None:
    def failing(problem: Exception) -> Work:
        yield Delta("x")
        raise problem

    known, unknown, good = Inbox(), Inbox(), Inbox()
    engine.submit("t", failing(NotFound("gone")), known.arrived.put, "r1")
    engine.submit("t", failing(ValueError("secret")), unknown.arrived.put, "r2")
    engine.submit("t", work("a"), good.arrived.put, "r3")
    with pytest.raises(NotFound, match="gone"):
        known.texts()
    with pytest.raises(LatentBankError, match="inside the worker"):
        unknown.texts()
    assert good.texts() == ["a"]


def test_requests_take_turns_and_one_that_waits_blocks_nobody(engine: Engine) -> None:
    release = threading.Event()

    def waits() -> Work:
        while not release.is_set():
            yield Waiting()
        yield Delta("at last")

    late, quick = Inbox(), Inbox()
    engine.submit("t", waits(), late.arrived.put, "r1")
    engine.submit("t", work("a", "b"), quick.arrived.put, "r2")
    assert quick.texts() == ["a", "b"]
    assert engine.waiting == 1
    release.set()
    assert late.texts() == ["at last"]


def test_a_cancelled_request_is_closed_before_its_next_step(engine: Engine) -> None:
    closed, go_on = threading.Event(), threading.Event()

    def endless() -> Work:
        try:
            while True:
                yield Delta("x")
                go_on.wait(TIMEOUT)
        finally:
            closed.set()

    inbox = Inbox()
    ticket = engine.submit("t", endless(), inbox.arrived.put, "r")
    inbox.arrived.get(timeout=TIMEOUT)
    ticket.cancel()
    go_on.set()
    assert closed.wait(TIMEOUT)


def test_stopping_ends_what_runs_and_what_waits() -> None:
    engine = Engine(NoModel(), InferenceMetrics(CollectorRegistry()), max_running=1)

    def endless() -> Work:
        while True:
            yield Delta("x")

    running, queued = Inbox(), Inbox()
    engine.submit("t", endless(), running.arrived.put, "r1")
    engine.submit("t", work("a"), queued.arrived.put, "r2")
    engine.start()
    running.arrived.get(timeout=TIMEOUT)
    engine.stop()
    for inbox in (running, queued):
        with pytest.raises(Unavailable):
            inbox.texts()
    with pytest.raises(Unavailable):
        engine.submit("t", work("a"), queued.arrived.put, "r3")


def test_tenants_are_served_in_turn() -> None:
    waiting: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        waiting.put(item[0], item)
    order = []
    while (item := waiting.take()) is not None:
        order.append(item)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert len(waiting) == 0
