from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from core.engine.passes import Feed, Step
from core.errors import LatentBankError, NotFound, Overloaded, Unavailable
from core.metrics import InferenceMetrics
from core.settings import ServingSettings
from tests.unit.workers.inference.conftest import Clock
from workers.inference.fair_queue import FairQueue
from workers.inference.question import Delta, Waiting
from workers.inference.scheduler import Engine, Outcome, Work

TIMEOUT = 10


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(NoModel(), InferenceMetrics(CollectorRegistry()), ServingSettings(max_running=2))
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
    engine = Engine(NoModel(), InferenceMetrics(CollectorRegistry()), ServingSettings(max_running=1))

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


class Counting:
    """A model of sums: the logits of what is fed are its tokens' number, and each pass is remembered."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.passes: list[tuple[int, int]] = []
        self.fails_at = fails_at
        self.resets = 0

    def run(self, feeds: Sequence[Feed], steps: Sequence[Step]) -> list[Tensor]:
        self.passes.append((sum(feed.size for feed in feeds), len(steps)))
        if len(self.passes) == self.fails_at:
            raise RuntimeError("the model broke")
        return [torch.tensor(float(feed.size)) for feed in feeds] + [torch.tensor(1.0) for _ in steps]

    def reset(self) -> None:
        self.resets += 1


def asks(*sizes: int, steps: int = 0, closed: list[str] | None = None, name: str = "") -> Work:
    """Feeds of these sizes, then so many steps; says at its end what it was sent."""
    rows: Any = None
    total = 0.0
    try:
        for size in sizes:
            total += float((yield Feed(rows, [[1] * size])))
        for _ in range(steps):
            total += float((yield Step(rows, 1)))
        yield Delta(f"{total}")
    finally:
        if closed is not None:
            closed.append(name)


def turns(model: Counting, *works: Work, pass_tokens: int = 100, max_running: int = 8) -> list[list[Outcome]]:
    """What each of the requests is delivered, each of a tenant of its own."""
    settings = ServingSettings(max_running=max_running, pass_tokens=pass_tokens)
    engine = Engine(model, InferenceMetrics(CollectorRegistry()), settings)
    inboxes: list[list[Outcome]] = [[] for _ in works]
    for number, work_ in enumerate(works):
        engine.submit(f"t{number}", work_, inboxes[number].append, f"r{number}")
    while engine.turn() or engine.waiting:
        pass
    return inboxes


def test_what_all_ask_for_runs_in_one_pass_and_each_is_sent_its_own() -> None:
    model = Counting()
    found = turns(model, asks(3, 2), asks(5, steps=2), asks(steps=3))
    assert [[event.text for event in inbox if isinstance(event, Delta)] for inbox in found] == [
        ["5.0"],
        ["7.0"],
        ["3.0"],
    ]
    assert all(inbox[-1] is None for inbox in found)
    assert model.passes == [(8, 1), (2, 2), (0, 2)]


def test_rows_that_write_go_on_in_every_pass_while_prompts_take_turns() -> None:
    model = Counting()
    turns(model, asks(60, 60), asks(60, 60), asks(30), asks(steps=5))
    assert [steps for _, steps in model.passes[:5]] == [1] * 5
    assert sum(size for size, _ in model.passes) == 270
    assert max(size for size, _ in model.passes) <= 100


def test_a_feed_larger_than_a_pass_runs_alone_beside_those_that_write() -> None:
    model = Counting()
    turns(model, asks(300), asks(10), asks(steps=2))
    assert model.passes == [(300, 1), (10, 1)]


def test_a_pass_that_fails_ends_its_requests_and_no_others() -> None:
    model, closed = Counting(fails_at=1), []
    first, second, late = turns(
        model,
        asks(60, closed=closed, name="first"),
        asks(steps=2, closed=closed, name="second"),
        asks(60, closed=closed, name="late"),
    )
    assert isinstance(first[-1], LatentBankError)
    assert isinstance(second[-1], LatentBankError)
    assert late[0] == Delta("60.0")
    assert model.resets == 1
    assert sorted(closed) == ["first", "late", "second"]


def test_only_so_many_run_at_once_and_the_rest_follow() -> None:
    model = Counting()
    found = turns(model, *(asks(steps=2) for _ in range(5)), max_running=2)
    assert max(steps for _, steps in model.passes) == 2
    assert all(inbox[-1] is None for inbox in found)


def test_a_request_that_is_cancelled_takes_no_part_in_the_next_pass() -> None:
    model, closed = Counting(), []
    engine = Engine(model, InferenceMetrics(CollectorRegistry()), ServingSettings())
    inbox: list[Outcome] = []
    ticket = engine.submit("t", asks(steps=9, closed=closed, name="gone"), inbox.append, "r")
    engine.turn()
    ticket.cancel()
    assert not engine.turn()
    assert model.passes == [(0, 1)]
    assert closed == ["gone"]
    assert inbox == [None]


def test_where_too_many_wait_the_next_is_told_to_come_back() -> None:
    settings = ServingSettings(max_running=1, max_waiting=2)
    engine = Engine(NoModel(), InferenceMetrics(CollectorRegistry()), settings)
    inbox: list[Outcome] = []
    for number in range(2):
        engine.submit("t", work("a"), inbox.append, f"r{number}")
    with pytest.raises(Overloaded):
        engine.submit("t", work("a"), inbox.append, "r2")
    while engine.turn() or engine.waiting:
        pass
    assert inbox == [Delta("a"), None] * 2


def test_who_waits_too_long_to_begin_is_told_so_and_who_has_begun_goes_on() -> None:
    clock = Clock()
    engine = Engine(Counting(), InferenceMetrics(CollectorRegistry()), ServingSettings(max_waiting_seconds=5), clock)

    def waits() -> Work:
        while True:
            yield Waiting()

    late, begun = [], []
    engine.submit("t", waits(), late.append, "r1")
    engine.submit("t", asks(steps=3), begun.append, "r2")
    engine.turn()
    clock.now = 5.1
    while engine.turn() or engine.waiting:
        pass
    assert [type(outcome) for outcome in late] == [Overloaded]
    assert begun == [Delta("3.0"), None]


def test_who_waits_for_admission_hears_of_the_deadline_though_nobody_makes_room() -> None:
    clock = Clock()
    settings = ServingSettings(max_running=1, max_waiting_seconds=5)
    engine = Engine(Counting(), InferenceMetrics(CollectorRegistry()), settings, clock)
    running, first, other, second, gone = [], [], [], [], []
    engine.submit("t", asks(steps=99), running.append, "r0")
    engine.turn()
    engine.submit("t", work("a"), first.append, "r1")
    engine.submit("u", work("b"), other.append, "r2")
    engine.submit("v", work("c"), gone.append, "r3").cancel()
    clock.now = 4.0
    engine.submit("t", work("d"), second.append, "r4")
    engine.turn()
    assert (first, other, second, gone) == ([], [], [], [None])
    clock.now = 5.1
    engine.turn()
    assert [type(outcome) for outcome in (*first, *other)] == [Overloaded, Overloaded]
    assert (running, second, engine.waiting) == ([], [], 1)
    while engine.turn() or engine.waiting:
        pass
    assert second == [Delta("d"), None]


def test_the_engine_knows_which_adapters_are_waited_for() -> None:
    engine = Engine(Counting(), InferenceMetrics(CollectorRegistry()), ServingSettings(max_running=2))

    def waits() -> Work:
        yield Waiting()
        yield Delta("x")

    inbox: list[Outcome] = []
    engine.submit("t", asks(steps=9), inbox.append, "r0", ["a"])
    engine.submit("t", waits(), inbox.append, "r1", ["b"])
    engine.submit("t", work("z"), inbox.append, "r2", ["c", "d"])
    engine.turn()
    assert engine.waiting_for == {"b", "c", "d"}
    while engine.turn() or engine.waiting:
        pass
    assert engine.waiting_for == frozenset()


def test_who_is_made_ready_counts_among_those_that_wait_and_is_turned_away_where_there_is_no_place() -> None:
    registry = CollectorRegistry()
    settings = ServingSettings(max_running=1, max_waiting=1)
    engine = Engine(Counting(), InferenceMetrics(registry), settings)
    inbox: list[Outcome] = []
    with engine.expecting(), engine.expecting():
        engine.show()
        assert engine.waiting == registry.get_sample_value("vllm:num_requests_waiting") == 2
        with pytest.raises(Overloaded), engine.expecting():
            pass
    engine.submit("t", asks(steps=9), inbox.append, "r0")
    engine.turn()
    with engine.expecting():
        pass
    engine.submit("t", work("a"), inbox.append, "r1")
    with pytest.raises(Overloaded), engine.expecting():
        pass
    assert engine.waiting == 1


class Strict(Counting):
    """A model in which every row that has joined takes a token in every pass, as it is with running rows."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: set[str] = set()

    def run(self, feeds: Sequence[Feed], steps: Sequence[Step]) -> list[Tensor]:
        assert len(steps) == len(self.joined)
        return super().run(feeds, steps)

    def writes(self, name: str, tokens: int) -> Work:
        rows: Any = None
        self.joined.add(name)
        try:
            for _ in range(tokens):
                yield Step(rows, 1)
                yield Delta(name)
        finally:
            self.joined.discard(name)


def test_who_leaves_in_the_middle_of_a_turn_is_out_of_the_pass_that_follows() -> None:
    model, heard, rest = Strict(), [], []
    engine = Engine(model, InferenceMetrics(CollectorRegistry()), ServingSettings())

    def leaves(outcome: Outcome) -> None:
        heard.append(outcome)
        gone.cancel()

    gone = engine.submit("t", model.writes("gone", 5), leaves, "r1")
    engine.submit("t", model.writes("stays", 5), rest.append, "r2")
    while engine.turn() or engine.waiting:
        pass
    assert heard == [Delta("gone"), None]
    assert rest == [*[Delta("stays")] * 5, None]


def test_stopping_in_the_middle_of_a_turn_tells_everybody_the_same() -> None:
    model, first, second = Strict(), Inbox(), Inbox()
    engine = Engine(model, InferenceMetrics(CollectorRegistry()), ServingSettings())
    stopping = threading.Thread(target=engine.stop)

    def stops(outcome: Outcome) -> None:
        first.arrived.put(outcome)
        if isinstance(outcome, Delta) and not stopping.is_alive():
            stopping.start()
            while not engine._stopped:
                pass

    engine.submit("t", model.writes("first", 5), stops, "r1")
    engine.submit("t", model.writes("second", 5), second.arrived.put, "r2")
    engine.start()
    for inbox in (first, second):
        with pytest.raises(Unavailable):
            inbox.texts()
    stopping.join(TIMEOUT)
    assert not engine.alive


def test_who_waits_for_a_slot_takes_nobodys_place() -> None:
    engine = Engine(Counting(), InferenceMetrics(CollectorRegistry()), ServingSettings(max_running=2))
    free = False

    def waits() -> Work:
        while not free:
            yield Waiting()
        yield from asks(steps=1)

    held_up: list[Outcome] = []
    served: list[Outcome] = []
    for number in range(2):
        engine.submit("t", waits(), held_up.append, f"r{number}")
    for number in range(3):
        engine.submit("t", asks(steps=2), served.append, f"s{number}")
    for _ in range(9):
        engine.turn()
    assert (served.count(Delta("2.0")), served.count(None)) == (3, 3)
    assert held_up == []
    free = True
    while engine.turn() or engine.waiting:
        pass
    assert held_up.count(None) == 2
