"""The states of a job, and the one pure function that owns the transitions between them.

    validating → queued → running → succeeded | failed | rejected | cancelled
                    ↑________↓  a lost lease, a failed attempt or a planned shutdown

Few states, a `phase` inside `running`, and a machine-readable `reason` that says how a job came to its end; each reason
belongs to exactly one final state (`ENDS`). Nothing here reads a clock or a database.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from core.errors import IllegalTransition


class State(StrEnum):
    """The words of the OpenAI fine-tuning API where it has them."""

    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


OPEN = frozenset({State.VALIDATING, State.QUEUED, State.RUNNING})
ENDED = frozenset(State) - OPEN


class Phase(StrEnum):
    """What a running job is doing; a job only moves forward through them, and may skip."""

    SELF_STUDY = "self_study"
    TRAINING = "training"
    CALIBRATING = "calibrating"
    PUBLISHING = "publishing"


PHASES = tuple(Phase)


class Reason(StrEnum):
    """How a job came to its end."""

    PUBLISHED = "published"
    CANCEL_REQUESTED = "cancel_requested"
    MEMORY_DELETED = "memory_deleted"
    CONTEXT_UNUSABLE = "context_unusable"
    WRONG_BASE = "wrong_base"
    POISON = "poison"
    CONTEXT_MISSING = "context_missing"
    TRAINING_FAILED = "training_failed"
    ADAPTER_INVALID = "adapter_invalid"
    STORAGE_FAILED = "storage_failed"
    INTERNAL_ERROR = "internal_error"


ENDS: dict[Reason, State] = {
    Reason.PUBLISHED: State.SUCCEEDED,
    Reason.CANCEL_REQUESTED: State.CANCELLED,
    Reason.MEMORY_DELETED: State.CANCELLED,
    Reason.CONTEXT_UNUSABLE: State.REJECTED,
    Reason.WRONG_BASE: State.REJECTED,
    Reason.POISON: State.FAILED,
    Reason.CONTEXT_MISSING: State.FAILED,
    Reason.TRAINING_FAILED: State.FAILED,
    Reason.ADAPTER_INVALID: State.FAILED,
    Reason.STORAGE_FAILED: State.FAILED,
    Reason.INTERNAL_ERROR: State.FAILED,
}


@dataclass(frozen=True, slots=True)
class JobState:
    """The part of a job that transitions read and write.

    `attempts` counts the claims that were not given back by a planned shutdown. `reason` is set at the end, and already
    when a cancel of a running job is asked for.
    """

    state: State = State.VALIDATING
    phase: Phase | None = None
    reason: Reason | None = None
    epoch: int = 0
    attempts: int = 0
    progress: float = 0.0
    cancel_requested: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """The input is fit to be distilled."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A worker takes the job; the epoch grows and fences older holders off."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """The holder reports how far it is; `progress` is 0 to 1 over the whole job."""

    phase: Phase
    progress: float


@dataclass(frozen=True, slots=True)
class Published:
    """The holder's adapter becomes the memory's current version."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is over without an adapter."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Released:
    """The holder shuts down as planned and gives the job back; the attempt does not count."""


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """The lease ran out, or the holder gave up in a way that another attempt may mend; the attempt counts."""

    max_attempts: int


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The tenant cancels the job, or deletes its memory."""

    reason: Reason = Reason.CANCEL_REQUESTED


Event = Accepted | Claimed | Advanced | Published | Ended | Released | AttemptLost | CancelRequested


def transition(job: JobState, event: Event) -> JobState:
    """The job after the event; raises `IllegalTransition` where the event can't happen to it."""
    match job.state, event:
        case State.VALIDATING, Accepted():
            return replace(job, state=State.QUEUED)
        case State.QUEUED, Claimed():
            return replace(job, state=State.RUNNING, epoch=job.epoch + 1, attempts=job.attempts + 1, progress=0.0)
        case State.RUNNING, Advanced(phase, progress):
            return _advanced(job, event, phase, progress)
        case State.RUNNING, Published() if not job.cancel_requested:
            return replace(_ended(job, Reason.PUBLISHED), progress=1.0)
        case ((State.VALIDATING | State.QUEUED | State.RUNNING), Ended(reason)) if _may_end(job, reason):
            return _ended(job, reason)
        case State.RUNNING, Released():
            return _given_back(replace(job, attempts=job.attempts - 1))
        case State.RUNNING, AttemptLost(max_attempts):
            if job.attempts >= max_attempts and not job.cancel_requested:
                return _ended(job, Reason.POISON)
            return _given_back(job)
        case ((State.VALIDATING | State.QUEUED), CancelRequested(reason)):
            return replace(_ended(job, reason), cancel_requested=True)
        case State.RUNNING, CancelRequested(reason):
            return replace(job, cancel_requested=True, reason=reason)
        case _:
            raise IllegalTransition(f"A job that is {job.state} can't be {type(event).__name__}.")


def _advanced(job: JobState, event: Advanced, phase: Phase, progress: float) -> JobState:
    if job.phase is not None and PHASES.index(phase) < PHASES.index(job.phase):
        raise IllegalTransition(f"A job that is {job.phase} can't go back to {phase}.")
    return replace(job, phase=phase, progress=max(job.progress, min(1.0, max(0.0, progress))))


def _may_end(job: JobState, reason: Reason) -> bool:
    """Success needs a publication; a job that no worker holds ends only by a refusal or a poison verdict."""
    if ENDS[reason] is State.SUCCEEDED:
        return False
    return job.state is State.RUNNING or ENDS[reason] is State.REJECTED


def _ended(job: JobState, reason: Reason) -> JobState:
    return replace(job, state=ENDS[reason], reason=reason)


def _given_back(job: JobState) -> JobState:
    """Back to the queue, or to its end where a cancel was waiting."""
    if job.cancel_requested:
        return _ended(job, job.reason or Reason.CANCEL_REQUESTED)
    return replace(job, state=State.QUEUED, phase=None, progress=0.0)
