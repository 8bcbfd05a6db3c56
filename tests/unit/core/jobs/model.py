"""A model of one job, its workers and its tenant: who may do what when, over the pure transitions.

A worker believes in the claim it once got. It may have lost it without knowing (a zombie): its lease ran out, or
another worker has the job. The model has the guards of `core.truth.leases` (epoch, lease, cancel, deletion), which
`tests/integration/truth/test_model.py` holds to the database, and asks `transition` for the rest. `step` checks every
invariant at every step, `explore` takes every step there is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

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

Transition = Callable[[JobState, Event], JobState]

OF_WORKERS = ("claim", "advance", "publish", "fail", "refuse", "release", "give_up", "crash")
OF_NOBODY = ("accept", "expire", "reap")
OF_TENANTS = ("cancel", "delete")


@dataclass(frozen=True, slots=True)
class Move:
    """Something that somebody tries; it may well be refused."""

    kind: str
    worker: int | None = None
    phase: Phase | None = None


@dataclass(frozen=True, slots=True)
class World:
    """`claims[w]` is the epoch that worker `w` believes to hold; `published` counts publications, `lost` attempts."""

    job: JobState
    claims: tuple[int | None, ...]
    lease_valid: bool = False
    deleted: bool = False
    published: int = 0
    lost: int = 0
    stopped: bool = False
    """A cancel or a deletion came before the job's end."""

    def holds(self, worker: int) -> bool:
        """What the compare-and-swap of every write of a worker asks."""
        return self.job.state is State.RUNNING and self.lease_valid and self.claims[worker] == self.job.epoch


@dataclass(frozen=True, slots=True)
class Rules:
    workers: int = 2
    max_attempts: int = 2
    transition: Transition = transition

    def start(self) -> World:
        return World(JobState(), (None,) * self.workers)

    def moves(self) -> Iterator[Move]:
        for kind in (*OF_NOBODY, *OF_TENANTS):
            yield Move(kind)
        for worker in range(self.workers):
            for kind in OF_WORKERS:
                for phase in PHASES if kind == "advance" else (None,):
                    yield Move(kind, worker, phase)


class Violated(AssertionError):
    """An invariant does not hold; the message says which, and after which moves."""


def step(world: World, move: Move, rules: Rules) -> World:
    """The world after the move, the same where it is refused. Raises `Violated`."""
    after = _tried(world, move, rules)
    _check(world, move, after, rules)
    return after


def explore(rules: Rules) -> dict[World, dict[Move, World]]:
    """Every world that can come to be, each with what every move makes of it; breadth first, so that the moves that
    lead to a violation are as few as can be. Epochs are renumbered: only their order matters. Raises `Violated`."""
    start = rules.start()
    came_by: dict[World, tuple[World, Move] | None] = {start: None}
    graph: dict[World, dict[Move, World]] = {}
    to_see = deque([start])
    while to_see:
        world = to_see.popleft()
        graph[world] = {}
        for move in rules.moves():
            try:
                after = renumbered(step(world, move, rules))
            except Violated as problem:
                raise Violated(f"{problem} after {[*_history(world, came_by), move]}") from None
            graph[world][move] = after
            if after not in came_by:
                came_by[after] = (world, move)
                to_see.append(after)
    return graph


def reaches(graph: dict[World, dict[Move, World]], goal: Callable[[World], bool], *, by: frozenset[str]) -> set[World]:
    """The worlds from which the moves of these kinds can lead to a goal."""
    before: dict[World, set[World]] = {}
    for world, moves in graph.items():
        for move, after in moves.items():
            if move.kind in by:
                before.setdefault(after, set()).add(world)
    found = {world for world in graph if goal(world)}
    to_see = deque(found)
    while to_see:
        for world in before.get(to_see.popleft(), ()):
            if world not in found:
                found.add(world)
                to_see.append(world)
    return found


def renumbered(world: World) -> World:
    """With the smallest epochs in the same order; attempts stay below the job's."""
    known = sorted({world.job.epoch, *(epoch for epoch in world.claims if epoch is not None)} - {0})
    rank = {0: 0} | {epoch: number for number, epoch in enumerate(known, start=1)}
    claims = tuple(None if epoch is None else rank[epoch] for epoch in world.claims)
    return replace(world, job=replace(world.job, epoch=rank[world.job.epoch]), claims=claims)


def _tried(world: World, move: Move, rules: Rules) -> World:
    try:
        if move.worker is None:
            return _by_nobody(world, move.kind, rules)
        return _by_worker(world, move, move.worker, rules)
    except IllegalTransition:
        return world


def _by_nobody(world: World, kind: str, rules: Rules) -> World:
    match kind:
        case "accept":
            return replace(world, job=rules.transition(world.job, Accepted()))
        case "expire":
            return replace(world, lease_valid=False)
        case "reap":
            if world.job.state is not State.RUNNING or world.lease_valid:
                return world
            return _lost(world, rules)
        case "cancel":
            return _stopped(world, Reason.CANCEL_REQUESTED, rules)
        case "delete":
            return replace(_stopped(world, Reason.MEMORY_DELETED, rules), deleted=True)
    raise ValueError(kind)


def _by_worker(world: World, move: Move, worker: int, rules: Rules) -> World:
    if move.kind == "claim":
        if world.claims[worker] is not None or world.job.state is not State.QUEUED:
            return world
        job = rules.transition(world.job, Claimed())
        return replace(_claims(world, worker, job.epoch), job=job, lease_valid=True)
    left = _claims(world, worker, None)
    if move.kind == "crash":
        return left
    if not world.holds(worker):
        return left  # it learns that it has lost the job
    match move.kind:
        case "advance":
            assert move.phase is not None
            progress = (PHASES.index(move.phase) + 1) / len(PHASES)
            return replace(world, job=rules.transition(world.job, Advanced(move.phase, progress)))
        case "publish":
            if world.deleted:
                return left
            return replace(left, job=rules.transition(world.job, Published()), published=world.published + 1)
        case "fail":
            return replace(left, job=rules.transition(world.job, Ended(Reason.TRAINING_FAILED)))
        case "refuse":
            return replace(left, job=rules.transition(world.job, Ended(Reason.WRONG_BASE)))
        case "release":
            return replace(left, job=rules.transition(world.job, Released()))
        case "give_up":
            return _lost(left, rules)
    raise ValueError(move.kind)


def _lost(world: World, rules: Rules) -> World:
    job = rules.transition(world.job, AttemptLost(rules.max_attempts))
    return replace(world, job=job, lost=world.lost + 1)


def _stopped(world: World, reason: Reason, rules: Rules) -> World:
    if world.job.cancel_requested:
        return world
    try:
        job = rules.transition(world.job, CancelRequested(reason))
    except IllegalTransition:
        return world
    return replace(world, job=job, stopped=world.stopped or world.job.state in OPEN)


def _claims(world: World, worker: int, epoch: int | None) -> World:
    return replace(world, claims=tuple(epoch if w == worker else e for w, e in enumerate(world.claims)))


def _check(before: World, move: Move, after: World, rules: Rules) -> None:
    was, now = before.job, after.job
    claimed = was.state is State.QUEUED and now.state is State.RUNNING
    holders = [worker for worker in range(rules.workers) if after.holds(worker)]
    zombie = move.worker is not None and move.kind != "claim" and not before.holds(move.worker)
    truths = {
        "what has ended stays as it is": was.state in OPEN or now == was,
        "the epoch grows with each claim and only then": now.epoch == was.epoch + claimed,
        "one worker at most holds the job": len(holders) <= 1,
        "who has lost the job changes nothing of it": not zombie or now == was,
        "it is published once at most": after.published <= 1,
        "success is a publication": (now.state is State.SUCCEEDED) == (after.published == 1),
        "a cancel wins until the commit": not (after.stopped and now.state is State.SUCCEEDED),
        "a cancel never wins after the commit": was.state is not State.SUCCEEDED or now.state is State.SUCCEEDED,
        "a cancel that was asked for stays": now.cancel_requested or not was.cancel_requested,
        "a cancelled job waits no more": not (now.cancel_requested and now.state is State.QUEUED),
        "a deleted memory has no job that waits": not (after.deleted and now.state in (State.VALIDATING, State.QUEUED)),
        "a deletion tells the worker": not (after.deleted and now.state is State.RUNNING) or now.cancel_requested,
        "attempts are capped": 0 <= now.attempts <= rules.max_attempts,
        "what waits has an attempt left": now.state is not State.QUEUED or now.attempts < rules.max_attempts,
        "lost attempts count and others do not": now.state in ENDED
        or now.attempts == after.lost + (now.state is State.RUNNING),
        "poison is the verdict of the last attempt": now.reason is not Reason.POISON
        or (after.lost == rules.max_attempts and not now.cancel_requested),
        "an end has its reason": now.state not in ENDED or (now.reason is not None and ENDS[now.reason] is now.state),
        "what waits starts anew": now.state is not State.QUEUED or (now.phase is None and now.progress == 0.0),
        "within an attempt nothing goes back": claimed
        or now.state is not State.RUNNING
        or (now.progress >= was.progress and _place(now.phase) >= _place(was.phase)),
    }
    for sentence, holds in truths.items():
        if not holds:
            raise Violated(f"'{sentence}' does not hold: {before} → {after}")


def _place(phase: Phase | None) -> int:
    return -1 if phase is None else PHASES.index(phase)


def _history(world: World, came_by: dict[World, tuple[World, Move] | None]) -> list[Move]:
    moves: list[Move] = []
    while (by := came_by[world]) is not None:
        world, move = by
        moves.insert(0, move)
    return moves
