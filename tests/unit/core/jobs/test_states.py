"""The state machine of jobs, by example and over random histories."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import IllegalTransition
from core.jobs.states import (
    ENDED,
    ENDS,
    OPEN,
    PHASES,
    Accepted,
    Advanced,
    AttemptLost,
    CancelRequested,
    Claimed,
    Ended,
    Event,
    JobState,
    Phase,
    Published,
    Reason,
    Released,
    State,
    transition,
)

QUEUED = transition(JobState(), Accepted())
RUNNING = transition(QUEUED, Claimed())

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.just(Accepted()),
    st.just(Claimed()),
    st.builds(Advanced, st.sampled_from(Phase), st.floats(-1, 2)),
    st.just(Published()),
    st.builds(Ended, st.sampled_from(Reason)),
    st.just(Released()),
    st.builds(AttemptLost, st.integers(1, 3)),
    st.builds(CancelRequested, st.sampled_from([Reason.CANCEL_REQUESTED, Reason.MEMORY_DELETED])),
)


def test_the_straight_way_leads_from_validating_to_succeeded() -> None:
    job = RUNNING
    for phase in PHASES:
        job = transition(job, Advanced(phase, 0.5))
    job = transition(job, Published())
    assert (job.state, job.reason, job.progress, job.epoch, job.attempts) == ("succeeded", "published", 1.0, 1, 1)


def test_a_lost_lease_counts_and_a_planned_shutdown_does_not() -> None:
    lost = transition(RUNNING, AttemptLost(3))
    released = transition(RUNNING, Released())
    assert (lost.state, lost.attempts) == (State.QUEUED, 1)
    assert (released.state, released.attempts) == (State.QUEUED, 0)
    assert transition(released, Claimed()).epoch == 2


def test_the_last_attempt_fails_as_poison() -> None:
    job = QUEUED
    for _ in range(3):
        job = transition(transition(job, Claimed()), AttemptLost(3))
    assert (job.state, job.reason, job.attempts) == (State.FAILED, Reason.POISON, 3)


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_told() -> None:
    assert transition(QUEUED, CancelRequested()).state is State.CANCELLED
    told = transition(RUNNING, CancelRequested(Reason.MEMORY_DELETED))
    assert (told.state, told.cancel_requested) == (State.RUNNING, True)


@pytest.mark.parametrize("event", [Released(), AttemptLost(1), AttemptLost(3)])
def test_a_job_told_to_stop_ends_as_cancelled_however_its_worker_leaves(event: Event) -> None:
    told = transition(RUNNING, CancelRequested(Reason.MEMORY_DELETED))
    left = transition(told, event)
    assert (left.state, left.reason) == (State.CANCELLED, Reason.MEMORY_DELETED)


def test_cancel_wins_over_publishing_until_the_commit_and_never_after() -> None:
    with pytest.raises(IllegalTransition):
        transition(transition(RUNNING, CancelRequested()), Published())
    with pytest.raises(IllegalTransition):
        transition(transition(RUNNING, Published()), CancelRequested())


def test_phases_only_go_forward_and_may_skip() -> None:
    publishing = transition(RUNNING, Advanced(Phase.PUBLISHING, 0.9))
    with pytest.raises(IllegalTransition):
        transition(publishing, Advanced(Phase.TRAINING, 0.5))


def test_a_requeued_job_starts_its_phases_anew() -> None:
    lost = transition(transition(RUNNING, Advanced(Phase.PUBLISHING, 0.9)), AttemptLost(3))
    assert (lost.phase, lost.progress) == (None, 0.0)
    assert transition(transition(lost, Claimed()), Advanced(Phase.SELF_STUDY, 0.1)).phase is Phase.SELF_STUDY


def test_success_needs_a_publication() -> None:
    with pytest.raises(IllegalTransition):
        transition(RUNNING, Ended(Reason.PUBLISHED))


def test_a_job_nobody_holds_can_be_refused_but_not_fail() -> None:
    assert transition(JobState(), Ended(Reason.CONTEXT_UNUSABLE)).state is State.REJECTED
    with pytest.raises(IllegalTransition):
        transition(QUEUED, Ended(Reason.TRAINING_FAILED))


def test_every_reason_belongs_to_one_end() -> None:
    assert set(ENDS) == set(Reason)
    assert set(ENDS.values()) == ENDED


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=30))
def test_no_history_breaks_the_rules(events: list[Event]) -> None:
    job = JobState()
    for event in events:
        try:
            after = transition(job, event)
        except IllegalTransition:
            continue
        assert job.state in OPEN, "what has ended stays as it is"
        assert after.epoch == job.epoch + (1 if isinstance(event, Claimed) else 0)
        assert 0 <= after.attempts <= after.epoch
        assert 0.0 <= after.progress <= 1.0
        if after.state in ENDED:
            assert after.reason is not None
            assert ENDS[after.reason] is after.state
        if after.state is State.SUCCEEDED:
            assert not job.cancel_requested
        if job.cancel_requested:
            assert after.cancel_requested
        job = after
