"""The state machine among zombies, crashes, cancels and deletions: every order for small sizes, random ones for larger.

The last tests break the machine on purpose, to show that the model sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from core.errors import IllegalTransition
from core.jobs.states import (
    ENDED,
    PHASES,
    Advanced,
    AttemptLost,
    CancelRequested,
    Claimed,
    Ended,
    Event,
    JobState,
    Published,
    Reason,
    Released,
    State,
    transition,
)
from tests.unit.core.jobs.model import OF_NOBODY, OF_WORKERS, Move, Rules, Violated, World, explore, reaches, step

WITHOUT_TENANTS = frozenset({*OF_NOBODY, *OF_WORKERS})


@pytest.mark.parametrize(("workers", "max_attempts"), [(1, 1), (2, 2), (2, 3)])
def test_no_order_of_moves_breaks_an_invariant_and_every_job_can_come_to_its_end(
    workers: int, max_attempts: int
) -> None:
    graph = explore(Rules(workers, max_attempts))
    ways = {world.job.state for world in graph}
    assert ways == set(State), "every state was seen"
    assert any(world.published and any(world.claims) for world in graph) == (workers > 1), "zombies outlived an end"
    ending = reaches(graph, lambda world: world.job.state in ENDED, by=WITHOUT_TENANTS)
    assert ending == set(graph)
    succeeding = reaches(graph, lambda world: world.job.state is State.SUCCEEDED, by=WITHOUT_TENANTS)
    waiting = {world for world in graph if world.job.state is State.QUEUED}
    assert waiting <= succeeding, "what waits can still succeed"
    assert not any(world.stopped for world in succeeding)


class JobAmongZombies(RuleBasedStateMachine):
    """More workers and attempts than can be explored; `step` holds the invariants."""

    @initialize(workers=st.integers(1, 5), max_attempts=st.integers(1, 5))
    def begin(self, workers: int, max_attempts: int) -> None:
        self.rules = Rules(workers, max_attempts)
        self.world = self.rules.start()
        self.go(Move("accept"))

    @rule(kind=st.sampled_from(OF_NOBODY))
    def nobody(self, kind: str) -> None:
        self.go(Move(kind))

    @rule(worker=st.integers(0, 4), kind=st.sampled_from([*OF_WORKERS, *["claim", "advance", "release"] * 3]))
    def somebody(self, worker: int, kind: str) -> None:
        phase = PHASES[worker % len(PHASES)] if kind == "advance" else None
        self.go(Move(kind, worker % self.rules.workers, phase))

    @rule(kind=st.sampled_from(["cancel", "delete"]), seldom=st.integers(0, 5))
    def tenant(self, kind: str, seldom: int) -> None:
        if seldom == 0:
            self.go(Move(kind))

    def go(self, move: Move) -> None:
        self.world = step(self.world, move, self.rules)


TestJobAmongZombies = JobAmongZombies.TestCase
TestJobAmongZombies.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def test_a_zombie_that_wakes_up_publishes_nothing() -> None:
    """One history of the many, to read: the first holder stalls past its lease, another takes over and publishes."""
    rules = Rules()
    world = rules.start()
    for move in (Move("accept"), Move("claim", 0), Move("expire"), Move("reap"), Move("claim", 1), Move("publish", 0)):
        world = step(world, move, rules)
    assert (world.job.state, world.published, world.claims) == (State.RUNNING, 0, (None, 2))
    world = step(world, Move("publish", 1), rules)
    assert (world.job.state, world.job.epoch, world.published) == (State.SUCCEEDED, 2, 1)
    assert step(world, Move("cancel"), rules).job == world.job


def claim_without_an_epoch(job: JobState, event: Event) -> JobState:
    after = transition(job, event)
    return replace(after, epoch=job.epoch) if isinstance(event, Claimed) else after


def publish_over_a_cancel(job: JobState, event: Event) -> JobState:
    if isinstance(event, Published) and job.state is State.RUNNING:
        return replace(job, state=State.SUCCEEDED, reason=Reason.PUBLISHED, progress=1.0)
    return transition(job, event)


def cancel_what_has_succeeded(job: JobState, event: Event) -> JobState:
    if isinstance(event, CancelRequested) and job.state is State.SUCCEEDED:
        return replace(job, state=State.CANCELLED, reason=event.reason, cancel_requested=True)
    return transition(job, event)


def one_attempt_too_many(job: JobState, event: Event) -> JobState:
    return transition(job, AttemptLost(event.max_attempts + 1) if isinstance(event, AttemptLost) else event)


def one_attempt_too_few(job: JobState, event: Event) -> JobState:
    return transition(job, AttemptLost(event.max_attempts - 1) if isinstance(event, AttemptLost) else event)


def a_shutdown_counts(job: JobState, event: Event) -> JobState:
    after = transition(job, event)
    return replace(after, attempts=job.attempts) if isinstance(event, Released) else after


def a_cancel_is_forgotten_with_the_attempt(job: JobState, event: Event) -> JobState:
    if isinstance(event, AttemptLost) and job.state is State.RUNNING and job.cancel_requested:
        return replace(job, state=State.QUEUED, phase=None, progress=0.0)
    return transition(job, event)


def an_end_forgets_the_cancel(job: JobState, event: Event) -> JobState:
    if isinstance(event, Released | AttemptLost) and job.state is State.RUNNING and job.cancel_requested:
        return replace(transition(job, event), cancel_requested=False)
    return transition(job, event)


def phases_go_back(job: JobState, event: Event) -> JobState:
    return transition(replace(job, phase=None) if isinstance(event, Advanced) else job, event)


def a_given_back_job_keeps_its_progress(job: JobState, event: Event) -> JobState:
    after = transition(job, event)
    return replace(after, phase=job.phase, progress=job.progress) if isinstance(event, Released) else after


def what_has_ended_may_end_otherwise(job: JobState, event: Event) -> JobState:
    if isinstance(event, CancelRequested) and job.state is State.FAILED:
        return replace(job, state=State.CANCELLED, reason=event.reason, cancel_requested=True)
    return transition(job, event)


def an_end_without_its_reason(job: JobState, event: Event) -> JobState:
    after = transition(job, event)
    return replace(after, reason=Reason.INTERNAL_ERROR) if isinstance(event, Ended) else after


BROKEN: dict[Callable[[JobState, Event], JobState], str] = {
    claim_without_an_epoch: "the epoch grows with each claim",
    publish_over_a_cancel: "a cancel wins until the commit",
    cancel_what_has_succeeded: "what has ended stays as it is",
    one_attempt_too_many: "what waits has an attempt left",
    one_attempt_too_few: "poison is the verdict of the last attempt",
    a_shutdown_counts: "lost attempts count and others do not",
    a_cancel_is_forgotten_with_the_attempt: "a cancelled job waits no more",
    an_end_forgets_the_cancel: "a cancel that was asked for stays",
    phases_go_back: "within an attempt nothing goes back",
    a_given_back_job_keeps_its_progress: "what waits starts anew",
    what_has_ended_may_end_otherwise: "what has ended stays as it is",
    an_end_without_its_reason: "an end has its reason",
}


@pytest.mark.parametrize(("broken", "sentence"), BROKEN.items(), ids=[broken.__name__ for broken in BROKEN])
def test_the_model_sees_a_broken_machine(broken: Callable[[JobState, Event], JobState], sentence: str) -> None:
    with pytest.raises(Violated, match=sentence):
        explore(Rules(transition=broken))


def test_the_model_sees_a_job_that_can_come_to_no_end() -> None:
    def never_reaped(job: JobState, event: Event) -> JobState:
        if isinstance(event, AttemptLost):
            raise IllegalTransition
        return transition(job, event)

    graph = explore(Rules(transition=never_reaped))
    stuck = set(graph) - reaches(graph, lambda world: world.job.state in ENDED, by=WITHOUT_TENANTS)
    assert stuck
    assert not any(world.holds(worker) for world in stuck for worker in range(2))


def test_the_model_would_see_two_holders() -> None:
    """Its fence is the epoch: with one that does not grow, a zombie holds what another has claimed."""
    twins = World(JobState(State.RUNNING, epoch=1, attempts=1), claims=(1, 1), lease_valid=True, lost=0)
    with pytest.raises(Violated, match="one worker at most"):
        step(twins, Move("accept"), Rules())
