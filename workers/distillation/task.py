"""One doorbell: claim its job, claim what goes with it, run the pack.

The doorbell's job may have been taken along by an earlier pack, here or elsewhere: then there is nothing to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from core.logs import get_logger
from core.truth import jobs
from core.truth.records import Claim, Renewal
from workers.distillation.attempt import Attempt, Outcome
from workers.distillation.lease import Heartbeat, Lease
from workers.distillation.pack import Pack
from workers.distillation.worker import Distillation

GOING_ON_SECONDS = 60.0
"""How long after a doorbell a worker begins further packs without another one."""
_REST_STEP_SECONDS = 0.2

_log = get_logger(__name__)


def perform(at: Distillation, job_id: str) -> Outcome:
    """Answers a doorbell; how its own job ended. Raises only where the claim itself could not be asked for.

    Awake, the worker goes on with what else is due, so that it need not wait for the dispatcher between short jobs; for
    so long that a doorbell that rings meanwhile is still answered, and acknowledged, in good time.
    """
    if at.stopping():
        # Celery has the doorbell acknowledged: the dispatcher rings another at once instead of after its timeout.
        with at.database.begin() as connection:
            jobs.unring(connection, [job_id])
        return Outcome.UNCLAIMED
    began = time.monotonic()
    seconds, limits = at.settings.jobs.lease_seconds, _limits(at)
    outcome = _run(at, lambda connection: jobs.claim(connection, job_id, at.worker_id, seconds))
    if outcome is Outcome.UNCLAIMED:
        _log.info("nothing to do for this doorbell", job_id=job_id)
        at.metrics.attempts.labels(Outcome.UNCLAIMED).inc()
    last = outcome
    # What was released waits for another doorbell: the store was away.
    while last is not Outcome.RELEASED and not at.stopping() and time.monotonic() - began < GOING_ON_SECONDS:
        try:
            last = _run(
                at, lambda connection: jobs.claim_next(connection, at.worker_id, at.base.digest, seconds, limits)
            )
        except SQLAlchemyError as problem:
            _log.warning("the next jobs could not be claimed", problem=str(problem))
            break
        if last is Outcome.UNCLAIMED:
            break
    return outcome


def _run(at: Distillation, ask: Callable[[Connection], Claim | None]) -> Outcome:
    """Runs a pack that begins with what `ask` claims; how that one ended."""
    claimed_at = time.monotonic()
    with _timed(at), at.database.begin() as connection:
        claim = ask(connection)
    if claim is None:
        return Outcome.UNCLAIMED
    with _heartbeat(at) as heartbeat:
        gathering = _Gathering(at, heartbeat, [])
        gathering.take([claim], claimed_at)
        gathering.fill()
        Pack(at, gathering.attempts).run()
    for attempt in gathering.attempts:
        at.metrics.attempts.labels(attempt.outcome).inc()
    at.metrics.group_up.set(at.group.alive)
    if any(attempt.outcome is Outcome.RELEASED for attempt in gathering.attempts):
        _rest(at)
    outcome = gathering.attempts[0].outcome
    assert outcome is not None, "a pack ends every attempt"
    return outcome


def _limits(at: Distillation) -> jobs.PackLimits:
    pack = at.settings.distillation
    return jobs.PackLimits(pack.pack, pack.pack_context_bytes, at.settings.jobs.in_flight_per_tenant)


@contextmanager
def _timed(at: Distillation) -> Iterator[None]:
    """Observes how long a transaction that claims took, its commit included."""
    began = time.perf_counter()
    yield
    at.metrics.claim_seconds.observe(time.perf_counter() - began)


def _rest(at: Distillation, sleep: Callable[[float], None] = time.sleep) -> None:
    """The store was away: what would be claimed at once would only be given back again."""
    until = time.monotonic() + at.settings.jobs.heartbeat_seconds
    while not at.stopping() and time.monotonic() < until:
        sleep(_REST_STEP_SECONDS)


def _heartbeat(at: Distillation) -> Heartbeat:
    seconds = at.settings.jobs.lease_seconds

    def renew(claims: Sequence[Claim]) -> list[Renewal]:
        with at.database.begin() as connection:
            return [jobs.renew(connection, claim, seconds) for claim in claims]

    return Heartbeat(renew, heartbeat_seconds=at.settings.jobs.heartbeat_seconds, on_all_lost=at.group.kill)


@dataclass(frozen=True, slots=True)
class _Gathering:
    """A pack in the making; what is in it is kept by the heartbeat already."""

    at: Distillation
    heartbeat: Heartbeat
    attempts: list[Attempt]
    sleep: Callable[[float], None] = time.sleep

    def take(self, claims: Sequence[Claim], claimed_at: float) -> None:
        settings = self.at.settings.jobs
        for claim in claims:
            lease = Lease(claim, claimed_at=claimed_at, lease_seconds=settings.lease_seconds)
            self.heartbeat.keep(lease)
            self.attempts.append(Attempt(self.at, claim, lease))
            waited = (claim.job.started_at or claim.job.created_at) - claim.job.created_at
            if claim.epoch == 1:
                self.at.metrics.claim_wait_seconds.observe(max(0.0, waited.total_seconds()))
            _log.info(
                "job claimed",
                job_id=claim.job.id,
                tenant_id=claim.job.tenant_id,
                epoch=claim.epoch,
                attempt=claim.job.attempts,
            )

    def fill(self) -> None:
        """Takes what waits; while there is room, once more after a moment, because contexts often come in bulk.

        A job that lost an attempt runs alone: it may be what took the others of its pack along.
        """
        limit, pause = self.at.settings.distillation.pack, self.at.settings.distillation.gather_seconds
        if limit == 1 or self.attempts[0].claim.job.attempts > 1:
            return
        self._claim_mates()
        if len(self.attempts) < limit and pause > 0 and not self.at.stopping():
            self.sleep(pause)
            self._claim_mates()

    def _claim_mates(self) -> None:
        """A database that is away makes a smaller pack; what it claimed and could not say comes back by the reaper."""
        seconds, limits = self.at.settings.jobs.lease_seconds, _limits(self.at)
        pack = [attempt.claim for attempt in self.attempts]
        claimed_at = time.monotonic()
        try:
            with _timed(self.at), self.at.database.begin() as connection:
                mates = jobs.claim_mates(connection, pack, self.at.worker_id, seconds, limits)
        except SQLAlchemyError as problem:
            _log.warning("no jobs could be claimed to go along", problem=str(problem))
            return
        self.take(mates, claimed_at)
