"""How inference workers follow a bank: what it serves as one stream, what changed since, and retrieval records."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select

from core.errors import NotFound
from core.truth.records import BankEntry, Changes, Found, RetrievalRecord
from core.truth.tables import memories, retrieval_records, tenants

_ENTRY = (memories.c.id.label("memory_id"), *(memories.c[name] for name in BankEntry.__slots__[1:]))
_BATCH = 1000


def put_record(connection: Connection, memory_id: str, adapter_digest: str, record: RetrievalRecord | None) -> None:
    """As `put_records`, of one memory."""
    put_records(connection, [(memory_id, adapter_digest, record)])


def put_records(connection: Connection, records: Sequence[tuple[str, str, RetrievalRecord | None]]) -> None:
    """Memories, their adapters' digests and their records, in place of the versions before; `None` leaves none."""
    memory_ids = [memory_id for memory_id, _, _ in records]
    connection.execute(delete(retrieval_records).where(retrieval_records.c.memory_id.in_(memory_ids)))
    new = [
        {"memory_id": memory_id, "adapter_digest": adapter_digest}
        | {name: getattr(record, name) for name in RetrievalRecord.__slots__}
        for memory_id, adapter_digest, record in records
        if record is not None
    ]
    if new:
        connection.execute(insert(retrieval_records), new)


def backfill_record(connection: Connection, memory_id: str, adapter_digest: str, record: RetrievalRecord) -> None:
    """The record of a version from before there were any; nothing happens where that is not served any more."""
    served = select(memories.c.id).where(
        memories.c.id == memory_id, memories.c.status == "ready", memories.c.adapter_digest == adapter_digest
    )
    if connection.execute(served.with_for_update()).one_or_none() is not None:
        put_record(connection, memory_id, adapter_digest, record)


def bank_revision(connection: Connection, tenant_id: str) -> int:
    """Raises `NotFound` for a tenant that is not there or deleted."""
    there = (tenants.c.id == tenant_id) & tenants.c.deleted_at.is_(None)
    revision = connection.execute(select(tenants.c.bank_revision).where(there)).scalar_one_or_none()
    if revision is None:
        raise NotFound(f"There is no tenant '{tenant_id}'.")
    return int(revision)


def served(connection: Connection, tenant_id: str) -> int:
    """How many memories the bank serves."""
    ready = select(func.count()).where(memories.c.tenant_id == tenant_id, memories.c.status == "ready")
    return int(connection.execute(ready).scalar_one())


def stream(connection: Connection, tenant_id: str, most_vectors: int) -> Iterator[Found]:
    """All that the bank serves, with the first `most_vectors` vectors of each; never the whole of it in memory."""
    query = _found(most_vectors).where(memories.c.tenant_id == tenant_id, memories.c.status == "ready")
    ordered = query.order_by(memories.c.created_at, memories.c.id)
    for row in connection.execute(ordered.execution_options(yield_per=_BATCH)):
        yield _found_of(row)


def changes(connection: Connection, tenant_id: str, since: int, most_vectors: int) -> Changes:
    """What changed after the bank's revision `since`. It is never older than the revision that it names."""
    revision = bank_revision(connection, tenant_id)
    query = (
        _found(most_vectors)
        .add_columns(memories.c.status)
        .where(memories.c.tenant_id == tenant_id, memories.c.bank_revision > since)
        .order_by(memories.c.bank_revision)
    )
    found, gone = [], []
    for row in connection.execute(query):
        if row.status == "ready":
            found.append(_found_of(row))
        else:
            gone.append(row.memory_id)
    return Changes(revision, tuple(found), tuple(gone))


def samples(connection: Connection, memory_ids: Collection[str]) -> dict[str, bytes]:
    """The samples of those of `memory_ids` that have a record."""
    rows = connection.execute(
        select(retrieval_records.c.memory_id, retrieval_records.c.samples).where(
            retrieval_records.c.memory_id.in_(sorted(memory_ids))
        )
    )
    return {row.memory_id: row.samples for row in rows}


def _found(most_vectors: int) -> Select[Any]:
    record = retrieval_records.c
    vectors = func.substr(record.vectors, 1, most_vectors * record.dimension).label("vectors")
    joined = memories.outerjoin(
        retrieval_records, (record.memory_id == memories.c.id) & (record.adapter_digest == memories.c.adapter_digest)
    )
    return select(*_ENTRY, memories.c.created_at, record.encoder, record.dimension, vectors, record.terms).select_from(
        joined
    )


def _found_of(row: Row[Any]) -> Found:
    fields = {name: row._mapping[name] for name in BankEntry.__slots__}
    # Nearly all entries of a bank share these, and a worker keeps all entries.
    fields |= {name: sys.intern(fields[name]) for name in ("collection", "base_digest")}
    entry = BankEntry(**fields)
    if row.encoder is None:
        return Found(entry, row.created_at, None)
    record = RetrievalRecord(row.encoder, row.dimension, bytes(row.vectors), bytes(row.terms), b"")
    return Found(entry, row.created_at, record)
