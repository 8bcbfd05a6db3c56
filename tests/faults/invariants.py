"""What must hold after any fault, looked at from outside once everything has settled: truth, store and processes.

`broken` returns sentences; none is the promise kept.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy import select

from core.errors import IllegalTransition, StorageError
from core.jobs.states import (
    ENDED,
    OPEN,
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
from core.metrics import OrchestratorMetrics
from core.settings import JobSettings
from core.storage.keys import ROOT, memory_prefix
from core.storage.manifest import describe_file
from core.storage.publication import read_manifest
from core.truth.records import Memory
from core.truth.tables import job_events, jobs, memories
from core.truth.transitions import memory_of, state_of
from orchestrator.garbage import GarbageCollector, is_named
from tests.faults.client import Tenant
from tests.faults.processes import marked, parent
from tests.faults.stack import MAX_ATTEMPTS, Stack

_ZOMBIE_SECONDS = 45.0

ENDS_OF_TEXTS: Mapping[str, Reason] = {
    "train": Reason.PUBLISHED,
    "last": Reason.PUBLISHED,
    "wait": Reason.PUBLISHED,
    "nan": Reason.ADAPTER_INVALID,
    "zero": Reason.ADAPTER_INVALID,
    "empty": Reason.ADAPTER_INVALID,
    "foreign": Reason.ADAPTER_INVALID,
    "refuse": Reason.TRAINING_FAILED,
    "break": Reason.POISON,
    "die": Reason.POISON,
}
"""How a job ends whose memory has this text, unless somebody cancelled it or deleted the memory."""


def settle(stack: Stack, tenants: Sequence[Tenant]) -> None:
    """Heals everything and waits for what the system does by itself, then collects garbage without a margin."""
    stack.heal()
    stack.until(stack.is_up, "everything is up again")
    stack.until(lambda: not _open_jobs(stack, tenants), "no job is open")
    stack.until(lambda: not _unpurged(stack, tenants), "what was deleted is purged")
    try:
        stack.until(lambda: not orphans(stack), "no process is an orphan", 30)
    except AssertionError as stuck:
        left = orphans(stack)
        for pid in left:  # the next test shall not find them too
            os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"orphans: {left}") from stuck


def broken(stack: Stack, tenants: Sequence[Tenant]) -> list[str]:
    """What does not hold once all has settled. Who woke from a long sleep may still be uploading what nobody will ever
    name, so that a collection may come too early: it is asked again for a while."""
    settle(stack, tenants)
    settings = JobSettings().model_copy(update={"garbage_margin_seconds": -5})  # stores round their times
    collector = GarbageCollector(stack.database, stack.store, settings, OrchestratorMetrics(CollectorRegistry()))
    give_up = time.monotonic() + _ZOMBIE_SECONDS
    while True:
        try:
            collector.collect()
            found = violations(stack, tenants)
        except StorageError as problem:  # a loaded machine's server may take longer than we wait for it
            found = [f"the store could not be looked at: {problem.message}"]
        if not found or time.monotonic() > give_up:
            return found
        time.sleep(1)


def violations(stack: Stack, tenants: Sequence[Tenant]) -> list[str]:
    """To be asked after `settle` and a collection."""
    found = [f"process {pid} is an orphan: {command}" for pid, command in orphans(stack).items()]
    for tenant in tenants:
        found += _of_tenant(stack, tenant)
    return found


def orphans(stack: Stack) -> dict[int, str]:
    """Marked processes that none of the stack's processes has begun, or that have outlived the one that did."""
    roots = {process.pid for process in stack.processes.values() if process.running}
    found = {}
    for pid, command in marked(stack.mark).items():
        try:
            above = pid
            while above not in roots and above > 1:
                above = parent(above)
        except OSError:
            continue
        if above not in roots:
            found[pid] = command
    return found


def _of_tenant(stack: Stack, tenant: Tenant) -> Iterator[str]:
    with stack.database.read() as connection:
        rows = connection.execute(select(memories).where(memories.c.tenant_id == tenant.id)).all()
        job_rows = connection.execute(
            select(jobs).where(jobs.c.tenant_id == tenant.id).order_by(jobs.c.created_at)
        ).all()
        event_rows = connection.execute(
            select(job_events).where(job_events.c.job_id.in_([row.id for row in job_rows])).order_by(job_events.c.id)
        ).all()
    known = {row.id: memory_of(row) for row in rows}
    for memory_id in tenant.acknowledged.keys() - known.keys():
        yield f"memory {memory_id} was acknowledged and is lost"
    for memory_id in known.keys() - tenant.acknowledged.keys():
        yield f"memory {memory_id} exists, and its client's request made another one"
    asked = {job_id: text for made in tenant.acknowledged.values() for text, job_id in made}
    for job_id in asked.keys() ^ {row.id for row in job_rows}:
        yield f"job {job_id} was acknowledged and does not exist, or exists and was not"
    published: dict[str, list[int]] = {}
    for row in job_rows:
        events = [event for event in event_rows if event.job_id == row.id]
        purged = row.memory_id in known and known[row.memory_id].purged_at is not None
        yield from replayed(row, events, purged=purged)
        yield from _ended_well(row, asked.get(row.id, ""), tenant)
        published.setdefault(row.memory_id, []).extend(e.data["version"] for e in events if "version" in e.data)
    for memory in known.values():
        versions = published.get(memory.id, [])
        if versions != list(range(1, len(versions) + 1)):
            yield f"memory {memory.id} published the versions {versions}"
        yield from _served(stack, memory, tenant, versions)
    yield from _objects(stack, tenant, known)


def replayed(row: Any, events: Sequence[Any], *, purged: bool) -> Iterator[str]:
    """The job's events, played back through the pure state machine, must end in its row.

    The purge of a deleted memory blanks the events of its progress: there what they said is taken from the next one.
    """
    if not purged and any(not event.message for event in events):
        yield f"job {row.id} has lost what its events say, and its memory is not purged"
    job = transition(JobState(), Accepted())
    if not events or events[0].data.get("state") != State.QUEUED:
        yield f"job {row.id} has no first event"
        return
    for event in events[1:]:
        if "state" not in event.data:
            continue
        befores = (job, *(_advanced(job, event.data) if purged else ()))
        after = next((made for one in befores for made in _possible(one, event.data) if _fits(made, event.data)), None)
        if after is None:
            yield f"job {row.id}: no transition leads from {job} to event {event.id}, {event.data}"
            return
        job = after
    rest = state_of(row)
    if (job.state, job.epoch, job.attempts, job.reason) != (rest.state, rest.epoch, rest.attempts, rest.reason):
        yield f"job {row.id} is {rest}, and its events end with {job}"


def _possible(job: JobState, data: Mapping[str, Any]) -> Iterator[JobState]:
    reason = Reason(data["reason"]) if data["reason"] else None
    candidates: list[Event] = [Claimed(), Published(), Released(), AttemptLost(MAX_ATTEMPTS)]
    candidates += [Advanced(Phase(data["phase"]), data["progress"])] if data["phase"] else []
    candidates += [Ended(reason), CancelRequested(reason)] if reason else []
    for event in candidates:
        yield from _after(job, event)


def _advanced(job: JobState, data: Mapping[str, Any]) -> Iterator[JobState]:
    """The job as far on as the event says that it was, with and without the wish that it be cancelled."""
    far = [job]
    if data["phase"]:
        far += _after(job, Advanced(Phase(data["phase"]), data["progress"]))
    yield from far
    if data["reason"]:
        for one in far:
            yield from _after(one, CancelRequested(Reason(data["reason"])))


def _after(job: JobState, event: Event) -> list[JobState]:
    try:
        return [transition(job, event)]
    except IllegalTransition:
        return []


def _fits(job: JobState, data: Mapping[str, Any]) -> bool:
    same = (job.state, job.phase, job.reason, job.epoch, job.attempts)
    told = (data["state"], data["phase"], data["reason"], data["epoch"], data["attempts"])
    return same == told and abs(job.progress - data["progress"]) < 1e-3


def _ended_well(row: Any, text: str, tenant: Tenant) -> Iterator[str]:
    if State(row.state) not in ENDED:
        yield f"job {row.id} is stuck: {row.state}, attempt {row.attempts}"
        return
    allowed = {ENDS_OF_TEXTS.get((text.split() or [""])[0], Reason.PUBLISHED)}
    if row.id in tenant.cancelled:
        allowed.add(Reason.CANCEL_REQUESTED)
    if row.memory_id in tenant.deleted:
        allowed |= {Reason.MEMORY_DELETED, Reason.CANCEL_REQUESTED}
    if Reason(row.reason) not in allowed:
        yield f"job {row.id} of '{text}' ended as {row.reason} ({row.error_message}), not as {sorted(allowed)}"


def _served(stack: Stack, memory: Memory, tenant: Tenant, versions: Sequence[int]) -> Iterator[str]:
    if memory.id in tenant.deleted:
        if memory.status != "deleted" or memory.purged_at is None:
            yield f"memory {memory.id} was deleted and is {memory.status}, purged at {memory.purged_at}"
        return
    if (memory.status == "ready") != bool(versions) or (memory.version or 0) != len(versions):
        yield f"memory {memory.id} is {memory.status} at version {memory.version}, and published {versions}"
    if memory.status != "ready" or memory.manifest_key is None:
        return
    try:
        manifest = read_manifest(stack.store, memory.manifest_key)
        if manifest.adapter_digest != memory.adapter_digest:
            yield f"memory {memory.id} names {memory.adapter_digest}, its manifest {manifest.adapter_digest}"
        for file in manifest.files:
            if describe_file(file.name, stack.store.get(manifest.key_of(file))) != file:
                yield f"memory {memory.id}: {file.name} is not what its manifest says"
        stack.store.get(memory.context_key)
    except StorageError as problem:
        yield f"memory {memory.id} is ready, but: {problem.message}"


def _objects(stack: Stack, tenant: Tenant, known: Mapping[str, Memory]) -> Iterator[str]:
    rows = {memory_id: (memory, False) for memory_id, memory in known.items()}
    for found in stack.store.list(f"{ROOT}/{tenant.id}"):
        memory_id = found.key.split("/")[3]
        if not is_named(found.key, tenant.id, memory_id, rows):
            yield f"no row names the object {found.key}"
        if memory_id in tenant.deleted and found.key.startswith(memory_prefix(tenant.id, memory_id)):
            yield f"the deleted memory {memory_id} still has {found.key}"


def _open_jobs(stack: Stack, tenants: Sequence[Tenant]) -> bool:
    ids = [tenant.id for tenant in tenants]
    with stack.database.read() as connection:
        query = select(jobs.c.id).where(jobs.c.tenant_id.in_(ids), jobs.c.state.in_(OPEN)).limit(1)
        return connection.execute(query).first() is not None


def _unpurged(stack: Stack, tenants: Sequence[Tenant]) -> bool:
    ids = [tenant.id for tenant in tenants]
    with stack.database.read() as connection:
        query = select(memories.c.id).where(
            memories.c.tenant_id.in_(ids), memories.c.status == "deleted", memories.c.purged_at.is_(None)
        )
        return connection.execute(query.limit(1)).first() is not None
