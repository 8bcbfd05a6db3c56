"""What a tenant uses of its quotas, kept exact in the transactions that change it, and what it may still take.

A row counts the memories that are not deleted, and the bytes of their contexts and published adapters. Whoever changes
a memory's row writes the difference here at the end of its transaction, the tenant's row locked. A process from before
this table changes memories without it; `recount` mends that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlalchemy import BigInteger, Connection, bindparam, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from core.errors import BacklogFull, NotFound, QuotaExceeded, TooMany
from core.jobs.states import State
from core.truth.clock import from_now, now
from core.truth.many_rows import RowUpdate
from core.truth.records import OpenJobs, Quotas, Tenant, Usage, quotas_in
from core.truth.tables import jobs, memories, tenant_usage, tenants

NOT_COUNTED = 2**31 - 1
"""As `jobs_at_most`: the next admission counts."""

SIZE = memories.c.context_bytes + func.coalesce(memories.c.adapter_bytes, 0)
"""Bytes that a memory's row counts for."""

_SIZES = RowUpdate(
    tenant_usage, "tenant_id", {"size": BigInteger()}, lambda given: {"bytes": tenant_usage.c.bytes + given["size"]}
)

_THERE = (tenants.c.id == bindparam("tenant")) & tenants.c.deleted_at.is_(None)
_TENANT = select(tenants).where(_THERE).with_for_update(key_share=True)
# Both rows are locked: one that is only read beside another that had to be waited for may be older than that one.
_TENANT_AND_USAGE = (
    select(*tenants.c, tenant_usage.c.memories, tenant_usage.c.bytes, tenant_usage.c.jobs_at_most)
    .join(tenant_usage, tenant_usage.c.tenant_id == tenants.c.id)
    .where(_THERE)
    .with_for_update(key_share=True)
)
_USED = (
    update(tenant_usage)
    .where(tenant_usage.c.tenant_id == bindparam("tenant"))
    .values(
        memories=tenant_usage.c.memories + bindparam("more_memories"),
        bytes=tenant_usage.c.bytes + bindparam("more_bytes"),
        jobs_at_most=tenant_usage.c.jobs_at_most + bindparam("more_jobs"),
    )
)

_WHAT_TO_DO = "Delete memories that are not needed any more, or ask the operator for a larger quota."


@dataclass(frozen=True, slots=True)
class Room:
    """What a tenant may still admit: places in its backlog, and what its quotas leave of what it uses."""

    jobs: int
    usage: Usage
    quotas: Quotas

    def refusal(self, size: int, memories: int = 1, jobs: int = 1) -> TooMany | None:
        """Why so many memories and jobs, with `size` bytes together, can't be admitted; `None` where they can."""
        if jobs > self.jobs:
            return BacklogFull()
        most, has = self.quotas.memories, self.usage.memories
        if memories > 0 and most is not None and has + memories > most:
            return QuotaExceeded(f"The tenant has {has} of at most {most} memories. {_WHAT_TO_DO}")
        most, has = self.quotas.bytes, self.usage.bytes
        if size > 0 and most is not None and has + size > most:
            return QuotaExceeded(
                f"{size} bytes more do not fit: the tenant's memories take {has} of at most {most} bytes. {_WHAT_TO_DO}"
            )
        return None

    def after(self, size: int, memories: int = 1, jobs: int = 1) -> Room:
        """What is left when they are admitted."""
        used = Usage(self.usage.memories + memories, self.usage.bytes + size)
        return replace(self, jobs=self.jobs - jobs, usage=used)


def lock_tenant(connection: Connection, tenant_id: str) -> Tenant:
    """Admissions of one tenant go one after the other: that makes its limits and its idempotency keys exact.

    Raises `NotFound` for a tenant that is not there or deleted.
    """
    row = connection.execute(_TENANT, {"tenant": tenant_id}).one_or_none()
    if row is None:
        raise NotFound(f"There is no tenant '{tenant_id}'.")
    return Tenant(**row._mapping)


def room(connection: Connection, tenant_id: str, *, backlog_limit: int, defaults: Quotas, jobs: int = 1) -> Room:
    """What the tenant, whose row the caller has locked, may admit; raises `NotFound` without it.

    As `lock_room`.
    """
    return lock_room(connection, tenant_id, backlog_limit=backlog_limit, defaults=defaults, jobs=jobs)[1]


def lock_room(
    connection: Connection, tenant_id: str, *, backlog_limit: int, defaults: Quotas, jobs: int = 1
) -> tuple[Tenant, Room]:
    """The tenant, its row and the one of its usage locked, and what it may admit. Raises `NotFound` as `lock_tenant`.

    Waiting jobs are counted only where they may be too many for `jobs` more: `jobs_at_most` grows with each admission
    and falls at a count, so that it is never below the number of jobs that wait or run. `Room.jobs` is exact where it
    is below `jobs`, else it may be too low.
    """
    row = connection.execute(_TENANT_AND_USAGE, {"tenant": tenant_id}).one_or_none()
    if row is None:
        lock_tenant(connection, tenant_id)
        recount(connection, tenant_id)
        row = connection.execute(_TENANT_AND_USAGE, {"tenant": tenant_id}).one()
    fields = row._mapping
    tenant = Tenant(**{name: fields[name] for name in Tenant.__slots__})
    free = backlog_limit - row.jobs_at_most
    if free < jobs:
        free = backlog_limit - _count_jobs(connection, tenant_id, backlog_limit)
    return tenant, Room(max(0, free), Usage(row.memories, row.bytes), quotas_in(tenant.settings).over(defaults))


def charge(
    connection: Connection,
    tenant_id: str,
    *,
    memories: int,
    size: int,
    jobs: int,
    backlog_limit: int,
    defaults: Quotas,
) -> None:
    """Takes room for all of them at once; raises `BacklogFull` or `QuotaExceeded`, and then nothing has changed.

    The caller has locked the tenant's row. `size` in bytes.
    """
    left = room(connection, tenant_id, backlog_limit=backlog_limit, defaults=defaults, jobs=jobs)
    refusal = left.refusal(size, memories, jobs)
    if refusal is not None:
        raise refusal
    add(connection, tenant_id, memories=memories, size=size, jobs=jobs)


def add(connection: Connection, tenant_id: str, *, memories: int = 0, size: int = 0, jobs: int = 0) -> None:
    """Writes a difference; memories and bytes also below zero, for what is deleted. The tenant's row is locked."""
    if (memories, size, jobs) == (0, 0, 0):
        return
    more = {"more_memories": memories, "more_bytes": size, "more_jobs": jobs}
    connection.execute(_USED, {"tenant": tenant_id, **more})


def add_sizes(connection: Connection, sizes: Mapping[str, int]) -> None:
    """Writes differences of bytes, by tenant; the tenants' rows are locked."""
    _SIZES.run(connection, [{"tenant_id": tenant_id, "size": size} for tenant_id, size in sizes.items() if size])


def usage_of(connection: Connection, tenant_id: str) -> Usage:
    row = connection.execute(select(tenant_usage).where(tenant_usage.c.tenant_id == tenant_id)).one_or_none()
    return _counted(connection, tenant_id) if row is None else Usage(max(0, row.memories), max(0, row.bytes))


def open_jobs(connection: Connection, tenant_id: str) -> OpenJobs:
    rows = connection.execute(
        select(jobs.c.state, func.count(), func.count(jobs.c.dispatched_at))
        .where(jobs.c.tenant_id == tenant_id, jobs.c.state.in_([State.QUEUED, State.RUNNING]))
        .group_by(jobs.c.state)
    )
    found = {state: (count, dispatched) for state, count, dispatched in rows}
    waiting, rung = found.get(State.QUEUED, (0, 0))
    return OpenJobs(waiting, rung + found.get(State.RUNNING, (0, 0))[0])


def open_usage(connection: Connection, tenant_id: str) -> None:
    """The row of a new tenant."""
    connection.execute(insert(tenant_usage).values(tenant_id=tenant_id, memories=0, bytes=0, jobs_at_most=0))


def recount(connection: Connection, tenant_id: str) -> bool:
    """Counts the tenant's rows anew; whether what was written differed.

    Whoever changes a memory waits for the row of its usage before it commits. So what is counted while that row is
    locked holds everything that was ever written to it, and nothing else.
    """
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    unknown = {"tenant_id": tenant_id, "memories": 0, "bytes": 0, "jobs_at_most": NOT_COUNTED}
    connection.execute(dialect.insert(tenant_usage).values(unknown).on_conflict_do_nothing())
    mine = tenant_usage.c.tenant_id == tenant_id
    before = connection.execute(select(tenant_usage).where(mine).with_for_update()).one()
    found = _counted(connection, tenant_id)
    connection.execute(
        update(tenant_usage).where(mine).values(memories=found.memories, bytes=found.bytes, counted_at=now())
    )
    return Usage(before.memories, before.bytes) != found


def due_for_recount(connection: Connection, older_than_seconds: float, limit: int) -> list[str]:
    """Tenants that were not counted for so long, or never; the longest first."""
    counted = tenant_usage.c.counted_at
    rows = connection.execute(
        select(tenants.c.id)
        .outerjoin_from(tenants, tenant_usage, tenant_usage.c.tenant_id == tenants.c.id)
        .where(or_(counted.is_(None), counted <= from_now(-older_than_seconds)))
        .order_by(counted.is_not(None), counted, tenants.c.id)
        .limit(limit)
    )
    return list(rows.scalars())


def _counted(connection: Connection, tenant_id: str) -> Usage:
    row = connection.execute(
        select(func.count(), func.coalesce(func.sum(SIZE), 0)).where(
            memories.c.tenant_id == tenant_id, memories.c.deleted_at.is_(None)
        )
    ).one()
    return Usage(int(row[0]), int(row[1]))


def _count_jobs(connection: Connection, tenant_id: str, most: int) -> int:
    """Jobs that wait, up to `most`. Where there are fewer, they are noted with those that run and may wait again."""

    def count(state: State) -> int:
        some = select(jobs.c.tenant_id).where(jobs.c.tenant_id == tenant_id, jobs.c.state == state).limit(most)
        return int(connection.execute(select(func.count()).select_from(some.subquery())).scalar_one())

    waiting = count(State.QUEUED)
    if waiting < most:
        noted = update(tenant_usage).where(tenant_usage.c.tenant_id == tenant_id)
        connection.execute(noted.values(jobs_at_most=waiting + count(State.RUNNING)))
    return waiting
