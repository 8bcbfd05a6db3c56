"""The heartbeat, with injected time."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from core.truth.records import Renewal
from workers.distillation.lease import Lease


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock, renew: Callable[[], Renewal], lost: list[str]) -> Lease:
    return Lease(
        renew,
        claimed_at=clock.now,
        lease_seconds=30.0,
        heartbeat_seconds=10.0,
        on_lost=lambda: lost.append("lost"),
        clock=clock,
    )


def away() -> Renewal:
    raise ConnectionError("the database is away")


def test_a_renewed_lease_is_held_from_the_renewals_beginning() -> None:
    clock, lost = Clock(), list[str]()
    lease = make(clock, lambda: Renewal(held=True, cancel_requested=False), lost)
    clock.now += 29.0
    lease.beat()
    clock.now += 29.0
    assert not lease.lost
    clock.now += 1.0
    assert lease.lost


def test_a_lease_that_the_truth_denies_is_lost_at_once_and_once() -> None:
    clock, lost = Clock(), list[str]()
    lease = make(clock, lambda: Renewal(held=False, cancel_requested=False), lost)
    lease.beat()
    lease.beat()
    assert lease.lost
    assert lost == ["lost"]


def test_a_lease_outlives_a_database_that_is_away_for_less_than_it() -> None:
    clock, lost = Clock(), list[str]()
    lease = make(clock, away, lost)
    clock.now += 20.0
    lease.beat()
    assert not lease.lost
    clock.now += 10.0
    lease.beat()
    assert lease.lost
    assert lost == ["lost"]


def test_a_cancel_is_seen_at_the_next_heartbeat() -> None:
    lease = make(Clock(), lambda: Renewal(held=True, cancel_requested=True), [])
    assert not lease.cancelled
    lease.beat()
    assert lease.cancelled
    assert not lease.lost


def test_a_heartbeat_that_crosses_the_attempts_end_changes_nothing() -> None:
    lost = list[str]()

    def renew() -> Renewal:
        lease.settle()
        return Renewal(held=False, cancel_requested=False)

    lease = make(Clock(), renew, lost)
    lease.beat()
    assert not lease.lost
    assert lost == []


def test_the_heartbeat_runs_while_the_lease_is_in_use_and_ends_with_it() -> None:
    beaten = Event()

    def renew() -> Renewal:
        beaten.set()
        return Renewal(held=True, cancel_requested=False)

    lease = Lease(renew, claimed_at=0.0, lease_seconds=30.0, heartbeat_seconds=0.0, on_lost=list, clock=lambda: 0.0)
    with lease:
        assert beaten.wait(5)
    assert not lease.lost
