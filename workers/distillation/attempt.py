"""One claim's work, from its context to the one guarded update.

Whatever happens, the lease decides: work whose lease is lost is discarded, an attempt that another one may mend is
given back, and only a fault of the memory itself, or of what was made of it, fails the job. No error leaves an attempt,
so that none touches the others of its pack.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError, NotSupportedError, ProgrammingError, SQLAlchemyError

from core.errors import (
    AdapterInvalid,
    LatentBankError,
    LeaseLost,
    ObjectCorrupt,
    ObjectMissing,
    StorageError,
    TrainerLost,
    Unavailable,
    WrongBase,
)
from core.jobs.states import ENDS, PHASES, Phase, Reason
from core.logs import bind, get_logger
from core.storage.retries import retrying
from core.truth import jobs
from core.truth.jobs import Advance
from core.truth.records import Claim, Job, Publication
from workers.distillation.lease import Lease
from workers.distillation.reports import RUN_SHARE, Reports
from workers.distillation.runs import CANCELLED, MemoryRequest, MemoryResult, Progress
from workers.distillation.starting import place_memory
from workers.distillation.worker import Distillation

_log = get_logger(__name__)
_STORE_ATTEMPTS = 4
RETRY_SECONDS = 0.5
LASTING = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
"""What the database says again however often it is asked."""

# The trainer's words for a context that no attempt could make a memory of.
_UNUSABLE = frozenset({"empty_context", "context_too_long", "context_unusable", "invalid_request"})

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


@dataclass(slots=True)
class Attempt:
    """One claim's work; `outcome` says how it ended, and is None before that."""

    at: Distillation
    claim: Claim
    lease: Lease
    outcome: Outcome | None = field(default=None, init=False)
    _reports: Reports = field(default_factory=Reports, init=False)

    @property
    def memory_id(self) -> str:
        return self.claim.memory.id

    @property
    def open(self) -> bool:
        return self.outcome is None

    def begin(self) -> bytes | None:
        """The context to distil; None where the attempt has ended, by adopting what an earlier epoch left too."""
        context = None
        with self._ending():
            if self.claim.memory.base_digest != self.at.base.digest:
                problem = "This worker has another base model than the one the memory was admitted for; send it again."
                raise MemoryFailed(Reason.WRONG_BASE, WrongBase.code, problem)
            adopted = self._patiently(lambda: self.at.exports.adopt(self.claim))
            if adopted is not None:
                self._publish(adopted, Outcome.ADOPTED)
            else:
                context = self._patiently(self._context)
        return context

    def place(self, directory: Path, context: bytes) -> MemoryRequest:
        """Puts what the trainer needs into the run's directory. Raises `LeaseLost`."""
        return self._patiently(lambda: place_memory(directory, self.claim, context, self.at.exports, self._tell))

    def report(self, line: Progress) -> Advance | None:
        """What is to be written down of a line of the trainer's progress, if anything."""
        due = self._reports.due(line) if self.open else None
        return None if due is None else Advance(self.claim, due.phase, due.progress, due.message, due.data)

    def publishing(self) -> Advance:
        """That the run is over for the memory, and its adapter is being published."""
        return Advance(self.claim, Phase.PUBLISHING, RUN_SHARE, "Checking and publishing the adapter.")

    def watch(self) -> None:
        """Ends the attempt where its lease is lost, or somebody asked for its cancel."""
        if self.open and self.lease.lost:
            self._end(Outcome.LEASE_LOST)
        elif self.open and self.lease.cancelled:
            with self._ending():
                self._cancel()

    def accept(self, result: MemoryResult) -> bool:
        """Whether the trainer made an adapter; if it made none, what that means is settled."""
        self.watch()
        if self.open:
            with self._ending():
                self._check(result)
                for phase in PHASES:
                    if phase in result.seconds_by_phase:
                        self.at.metrics.job_seconds.labels(phase).observe(result.seconds_by_phase[phase])
        return self.open

    def upload(self, result: MemoryResult) -> Publication | None:
        """What is ready to be published; None where the attempt has ended on the way."""
        publication = None
        if self.open:
            with self._ending():
                began = time.monotonic()
                publication = self._patiently(lambda: self.at.exports.upload(self.claim, result, result.directory))
                self.at.metrics.job_seconds.labels(Phase.PUBLISHING).observe(time.monotonic() - began)
        return publication

    def publish(self, publication: Publication) -> None:
        """The commit point, of this memory alone."""
        with self._ending():
            self._publish(publication, Outcome.SUCCEEDED)

    def settle(self, *, published: bool) -> None:
        """Ends the attempt after the commit point of many was asked: published, or why not."""
        with self._ending():
            self._settle(published, Outcome.SUCCEEDED)

    def lose(self) -> None:
        """The job is somebody else's."""
        if self.open:
            self._end(Outcome.LEASE_LOST)

    def release(self) -> None:
        """A planned shutdown: the job waits again, and the attempt does not count."""
        self.watch()
        if self.open:
            with self._ending():
                self._write(lambda connection: jobs.release(connection, self.claim))
                self._end(Outcome.RELEASED)

    def give_up(self, code: str, message: str) -> None:
        """The attempt failed and counts; the job is queued again, or is poison."""
        self.watch()
        if self.open:
            with self._ending():
                self._give_up(code, message)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """The boundary of the attempt's work: every error in it ends the attempt."""
        with bind(job_id=self.claim.job.id, tenant_id=self.claim.job.tenant_id):
            try:
                with self._judging():
                    yield
            except LeaseLost:
                self._end(Outcome.LEASE_LOST)
            except Exception:  # noqa: BLE001 - the boundary of one attempt
                _log.exception("the attempt's end could not be written down; the reaper will see to it")
                self._end(Outcome.GIVEN_UP)

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """What an error of the work means for the job."""
        try:
            yield
        except MemoryFailed as failed:
            self._fail(failed.reason, failed.code, failed.message)
        except AdapterInvalid as problem:
            self._fail(Reason.ADAPTER_INVALID, problem.code, problem.message)
        except LeaseLost:
            raise
        except StorageError as problem:
            _log.warning("the attempt failed", code=problem.code, problem=problem.message)
            if self._store_is_away():
                self._wait_again()
            else:
                self._give_up(problem.code, problem.message)
        except LatentBankError as problem:
            _log.warning("the attempt failed", code=problem.code, problem=problem.message)
            self._give_up(problem.code, problem.message)
        except Exception:  # noqa: BLE001 - the boundary of the attempt's work
            _log.exception("the attempt failed unexpectedly")
            self._give_up("internal_error", "Something went wrong in the distillation worker.")

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

    def _check(self, result: MemoryResult) -> None:
        if result.error is None:
            return
        if result.error_code == Unavailable.code:
            raise Unavailable(result.error)
        if result.unforeseen:
            # Out of memory, a broken collective: not this memory's fault.
            raise TrainerLost(f"Training failed unexpectedly ({result.error}).")
        if result.error_code == CANCELLED:
            raise TrainerLost("The training processes left the memory out, and nobody had asked them to.")
        reason = Reason.CONTEXT_UNUSABLE if result.error_code in _UNUSABLE else Reason.TRAINING_FAILED
        raise MemoryFailed(reason, result.error_code, result.error)

    def _tell(self, message: str) -> None:
        """Writes an event down that is neither a phase nor an end."""
        _log.warning("told the job's owner", job_id=self.claim.job.id, message=message)
        try:
            with self.at.database.begin() as connection:
                jobs.tell(connection, self.claim, message)
        except SQLAlchemyError as problem:
            _log.warning("an event could not be written down", problem=str(problem))

    def _publish(self, publication: Publication, outcome: Outcome) -> None:
        self._settle(self._write(lambda connection: jobs.publish(connection, self.claim, publication)), outcome)

    def _settle(self, published: bool, outcome: Outcome) -> None:
        """Said no, it asks why: cancelled, or the lease is lost."""
        if published:
            self._end(outcome)
        elif self._job().cancel_requested:
            self._cancel()
        else:
            raise LeaseLost

    def _cancel(self) -> None:
        reason = Reason(self._job().reason or Reason.CANCEL_REQUESTED)
        self._write(lambda connection: jobs.finish(connection, self.claim, ENDS[reason], reason))
        self._end(Outcome.CANCELLED)

    def _fail(self, reason: Reason, code: str, message: str) -> None:
        _log.warning("the job ends without an adapter", reason=reason, code=code, problem=message)
        self._write(lambda connection: jobs.finish(connection, self.claim, ENDS[reason], reason, code, message))
        self._end(Outcome.FAILED)

    def _give_up(self, code: str, message: str) -> None:
        limit = self.at.settings.jobs.max_attempts
        self._write(lambda connection: jobs.give_up(connection, self.claim, limit, code, message))
        self._end(Outcome.GIVEN_UP)

    def _end(self, outcome: Outcome) -> None:
        self.lease.settle()
        self.outcome = outcome
        _log.info("attempt ended", job_id=self.claim.job.id, outcome=outcome, epoch=self.claim.epoch)

    def _store_is_away(self) -> bool:
        """Whether the store fails for everybody, and not only for this memory's objects."""
        try:
            self.at.store.check()
        except LatentBankError:
            return True
        return False

    def _wait_again(self) -> None:
        """The attempt does not count: an outage would make poison of every job that is tried meanwhile."""
        message = "The object store does not answer; the job waits again."
        self._write(lambda connection: jobs.release(connection, self.claim, message))
        self._end(Outcome.RELEASED)

    def _job(self) -> Job:
        return self._write(lambda connection: jobs.get_job(connection, self.claim.job.tenant_id, self.claim.job.id))

    def _write(self, write: Callable[[Connection], T]) -> T:
        """Writes how the attempt ends."""
        self.lease.settle()

        def commit() -> T:
            with self.at.database.begin() as connection:
                return write(connection)

        return self._patiently(commit)

    def _patiently(self, work: Callable[[], T]) -> T:
        """While the lease is held, a database that is away is asked again; stored objects need it for their keys."""
        while True:
            try:
                return work()
            except LASTING:
                raise
            except SQLAlchemyError as problem:
                if self.lease.lost:
                    raise LeaseLost from problem
                _log.warning("the database did not answer; trying again", problem=str(problem))
                time.sleep(RETRY_SECONDS)
