"""One doorbell, from claim to commit.

Claim → adopt what an earlier epoch left, or run in the group, validate, upload → one guarded update. Whatever happens,
the lease decides: work whose lease is lost is discarded, an attempt that another one may mend is given back, and only a
fault of the memory itself, or of what was made of it, fails the job.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from core.base_model.description import BaseDescription
from core.errors import (
    AdapterInvalid,
    LatentBankError,
    LeaseLost,
    ObjectCorrupt,
    ObjectMissing,
    TrainerLost,
    Unavailable,
    WrongBase,
)
from core.jobs.states import ENDS, PHASES, Phase, Reason
from core.logs import bind, get_logger
from core.metrics import DistillationMetrics
from core.settings import Settings
from core.storage.object_store import ObjectStore
from core.storage.retries import retrying
from core.truth import jobs
from core.truth.database import Database
from core.truth.records import Claim, Job, Publication, Renewal
from workers.distillation.exports import Exports
from workers.distillation.group import Interrupted, Interruption, TrainerGroup
from workers.distillation.lease import Lease
from workers.distillation.reports import RUN_SHARE, Reports
from workers.distillation.runs import MemoryRequest, MemoryResult, RunRequest, RunResult

_log = get_logger(__name__)
_STORE_ATTEMPTS = 4
_RETRY_SECONDS = 0.5
# The trainer's words for a context that no attempt could make a memory of.
_UNUSABLE = frozenset({"empty_context", "context_too_long", "context_unusable", "invalid_request"})
# The trainer's word for an error that it did not foresee.
_UNEXPECTED = "distillation_failed"

T = TypeVar("T")


class Outcome(StrEnum):
    """How an attempt ended; `UNCLAIMED` was none: the job is another's, ended, or not to be begun any more."""

    UNCLAIMED = "unclaimed"
    SUCCEEDED = "succeeded"
    ADOPTED = "adopted"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    GIVEN_UP = "given_up"
    LEASE_LOST = "lease_lost"


class MemoryFailed(Exception):
    """This memory can't be made, now or in another attempt."""

    def __init__(self, reason: Reason, code: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Distillation:
    """What a distillation worker works with. `stopping` says whether a planned shutdown has begun."""

    settings: Settings
    worker_id: str
    database: Database
    store: ObjectStore
    group: TrainerGroup
    base: BaseDescription
    exports: Exports
    metrics: DistillationMetrics
    stopping: Callable[[], bool]

    def perform(self, job_id: str) -> Outcome:
        """Answers a doorbell. Raises only where the claim itself could not be asked for."""
        if self.stopping():
            return Outcome.UNCLAIMED
        claimed_at = time.monotonic()
        with self.database.begin() as connection:
            claim = jobs.claim(connection, job_id, self.worker_id, self.settings.jobs.lease_seconds)
        if claim is None:
            _log.info("nothing to do for this doorbell", job_id=job_id)
            return Outcome.UNCLAIMED
        with bind(job_id=job_id, tenant_id=claim.job.tenant_id):
            _log.info("job claimed", epoch=claim.epoch, attempt=claim.job.attempts)
            with self._lease(claim, claimed_at) as lease:
                outcome = Attempt(self, claim, lease).outcome()
            _log.info("attempt ended", outcome=outcome, seconds=round(time.monotonic() - claimed_at, 2))
        self.metrics.attempts.labels(outcome).inc()
        self.metrics.group_up.set(self.group.alive)
        return outcome

    def _lease(self, claim: Claim, claimed_at: float) -> Lease:
        def renew() -> Renewal:
            with self.database.begin() as connection:
                return jobs.renew(connection, claim, self.settings.jobs.lease_seconds)

        return Lease(
            renew,
            claimed_at=claimed_at,
            lease_seconds=self.settings.jobs.lease_seconds,
            heartbeat_seconds=self.settings.jobs.heartbeat_seconds,
            on_lost=self.group.kill,
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim's work."""

    at: Distillation
    claim: Claim
    lease: Lease

    def outcome(self) -> Outcome:
        """Does the work and settles the job's row; every error of the work ends here."""
        try:
            return self._settle()
        except LeaseLost:
            self.at.group.kill()
            return Outcome.LEASE_LOST
        except Exception:  # noqa: BLE001 - the boundary of one attempt
            _log.exception("the attempt's end could not be written down; the reaper will see to it")
            return Outcome.GIVEN_UP

    def _settle(self) -> Outcome:
        try:
            adopted = self.at.exports.adopt(self.claim)
            publication = adopted or self._distil()
            return self._publish(publication, Outcome.ADOPTED if adopted else Outcome.SUCCEEDED)
        except Interrupted as interrupted:
            return self._interrupted(interrupted.why)
        except MemoryFailed as failed:
            return self._end(failed.reason, failed.code, failed.message)
        except AdapterInvalid as problem:
            return self._end(Reason.ADAPTER_INVALID, problem.code, problem.message)
        except LeaseLost:
            raise
        except TrainerLost as problem:
            _log.warning("the trainer was lost", problem=problem.message, last_words=problem.last_words)
            return self._give_up(problem.code, problem.message)
        except LatentBankError as problem:
            _log.warning("the attempt failed", code=problem.code, problem=problem.message)
            return self._give_up(problem.code, problem.message)
        except Exception:  # noqa: BLE001 - the boundary of the attempt's work
            _log.exception("the attempt failed unexpectedly")
            return self._give_up("internal_error", "Something went wrong in the distillation worker.")

    def _distil(self) -> Publication:
        """Runs the memory in the group, and uploads what comes out."""
        if self.claim.memory.base_digest != self.at.base.digest:
            problem = "This worker has another base model than the one the memory was admitted for; send it again."
            raise MemoryFailed(Reason.WRONG_BASE, WrongBase.code, problem)
        context = self._context()
        with self.at.group.run(
            lambda directory: self._request(directory, context), Reports(self._advance), self._interruption
        ) as run:
            self.at.metrics.group_up.set(1)
            result = self._result(run)
            self._observe(result)
            began = time.monotonic()
            self._advance(Phase.PUBLISHING, RUN_SHARE, "Checking and publishing the adapter.", {})
            publication = self.at.exports.upload(self.claim, result, result.directory)
            self.at.metrics.job_seconds.labels(Phase.PUBLISHING).observe(time.monotonic() - began)
            return publication

    def _context(self) -> bytes:
        memory = self.claim.memory

        def fetch() -> bytes:
            data = self.at.store.get(memory.context_key)
            if hashlib.sha256(data).hexdigest() != memory.context_sha256.removeprefix("sha256:"):
                raise ObjectCorrupt("The stored context is not the one that was sent.")
            return data

        try:
            return retrying(fetch, attempts=_STORE_ATTEMPTS)
        except ObjectMissing as missing:
            problem = "The stored context is gone; send it again."
            raise MemoryFailed(Reason.CONTEXT_MISSING, missing.code, problem) from missing

    def _request(self, directory: Path, context: bytes) -> RunRequest:
        settings, memory = self.at.settings, self.claim.memory
        context_path = directory / f"{memory.id}.json"
        context_path.write_bytes(context)
        export = directory / memory.id
        export.mkdir()
        return RunRequest(
            run_id=directory.name,
            base_reference=settings.base_model,
            base_dir=str(settings.base_dir),
            encoder=settings.encoder,
            recipe=settings.recipe.model_dump(mode="json"),
            memories=(MemoryRequest(memory.id, memory.title, memory.kind, str(context_path), str(export)),),
        )

    def _result(self, run: RunResult) -> MemoryResult:
        result = run.of(self.claim.memory.id)
        if result is None:
            raise TrainerLost(run.error or "The training processes answered without a result.")
        if result.error is not None and result.error_code == Unavailable.code:
            raise Unavailable(result.error)
        if result.error is not None and result.error_code == _UNEXPECTED:
            # Out of memory, a broken collective: not this memory's fault, and nothing to train the next one with.
            last_words = self.at.group.last_words()
            self.at.group.kill()
            raise TrainerLost(f"Training failed unexpectedly ({result.error}).", last_words=last_words)
        if result.error is not None:
            reason = Reason.CONTEXT_UNUSABLE if result.error_code in _UNUSABLE else Reason.TRAINING_FAILED
            raise MemoryFailed(reason, result.error_code, result.error)
        return result

    def _observe(self, result: MemoryResult) -> None:
        for phase in PHASES:
            if phase in result.seconds_by_phase:
                self.at.metrics.job_seconds.labels(phase).observe(result.seconds_by_phase[phase])

    def _interruption(self) -> Interruption | None:
        if self.lease.lost:
            return Interruption.LEASE_LOST
        if self.lease.cancelled:
            return Interruption.CANCELLED
        return Interruption.STOPPING if self.at.stopping() else None

    def _advance(self, phase: Phase, progress: float, message: str, data: dict[str, Any]) -> None:
        """Writes progress down; a database that is away costs an event, not the attempt."""
        try:
            with self.at.database.begin() as connection:
                jobs.advance(connection, self.claim, phase, progress, message, data)
        except SQLAlchemyError as problem:
            _log.warning("progress could not be written down", problem=str(problem))

    def _publish(self, publication: Publication, outcome: Outcome) -> Outcome:
        """The commit point. Said no, it asks why: cancelled, or the lease is lost."""
        if self._write(lambda connection: jobs.publish(connection, self.claim, publication)):
            return outcome
        if self._job().cancel_requested:
            return self._interrupted(Interruption.CANCELLED)
        raise LeaseLost

    def _interrupted(self, why: Interruption) -> Outcome:
        match why:
            case Interruption.CANCELLED:
                self._end(Reason(self._job().reason or Reason.CANCEL_REQUESTED), None, None)
                return Outcome.CANCELLED
            case Interruption.STOPPING:
                self._write(lambda connection: jobs.release(connection, self.claim))
                return Outcome.RELEASED
            case Interruption.LEASE_LOST:
                raise LeaseLost

    def _job(self) -> Job:
        return self._write(lambda connection: jobs.get_job(connection, self.claim.job.tenant_id, self.claim.job.id))

    def _end(self, reason: Reason, code: str | None, message: str | None) -> Outcome:
        _log.warning("the job ends without an adapter", reason=reason, code=code, problem=message)
        self._write(lambda connection: jobs.finish(connection, self.claim, ENDS[reason], reason, code, message))
        return Outcome.FAILED

    def _give_up(self, code: str, message: str) -> Outcome:
        """Ends the attempt, which counts; the job is queued again, or is poison."""
        limit = self.at.settings.jobs.max_attempts
        self._write(lambda connection: jobs.give_up(connection, self.claim, limit, code, message))
        return Outcome.GIVEN_UP

    def _write(self, write: Callable[[Connection], T]) -> T:
        """Writes how the attempt ends; while the lease is held, a database that is away is asked again."""
        self.lease.settle()
        while True:
            try:
                with self.at.database.begin() as connection:
                    return write(connection)
            except SQLAlchemyError as problem:
                if self.lease.lost:
                    raise LeaseLost from problem
                _log.warning("the database did not answer; trying again", problem=str(problem))
                time.sleep(_RETRY_SECONDS)
