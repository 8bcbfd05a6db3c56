"""When a worker takes itself for deaf: the truth on SQLite, a clock that is set."""

from __future__ import annotations

from sqlalchemy import update

from core.truth import jobs
from core.truth.clock import from_now
from core.truth.tables import jobs as jobs_table
from tests.unit.workers.distillation.bench import Bench
from workers.distillation.hearing import Hearing


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def is_deaf(bench: Bench, hearing: Hearing) -> bool:
    with bench.worker.database.begin() as connection:
        return hearing.is_deaf(connection)


def dispatch(bench: Bench, job_id: str, *, seconds_ago: float) -> None:
    with bench.worker.database.begin() as connection:
        assert jobs.mark_dispatched(connection, job_id) is not None
        connection.execute(update(jobs_table).values(dispatched_at=from_now(-seconds_ago)))


def test_who_idles_while_jobs_wait_that_were_rung_for_is_deaf(bench: Bench) -> None:
    clock = Clock()
    hearing = Hearing(60.0, clock)
    dispatch(bench, bench.admit("train"), seconds_ago=61)
    clock.seconds += 59
    assert not is_deaf(bench, hearing), "it was busy until just now"
    clock.seconds += 2
    assert is_deaf(bench, hearing)
    hearing.noted()
    assert not is_deaf(bench, hearing)


def test_who_idles_because_there_is_nothing_to_hear_is_not_deaf(bench: Bench) -> None:
    clock = Clock()
    hearing = Hearing(60.0, clock)
    clock.seconds += 3600
    assert not is_deaf(bench, hearing), "nothing waits"
    job_id = bench.admit("train")
    assert not is_deaf(bench, hearing), "it has not left the backlog"
    dispatch(bench, job_id, seconds_ago=59)
    assert not is_deaf(bench, hearing), "it may still be heard"
    dispatch_again = update(jobs_table).values(dispatched_at=from_now(-61), rung_at=None)
    with bench.worker.database.begin() as connection:
        connection.execute(dispatch_again)
    assert not is_deaf(bench, hearing), "the broker has not taken its doorbell"
