"""The audit log: who did what to a tenant's things, and when. Rows are only ever added; the database refuses the rest.

A record is written in the transaction of its deed, so that there is never one without the other. It names things by
their ids and says nothing that a tenant wrote, so that it can stay when everything else of a tenant is forgotten: it
then is the attestation. Questions are not recorded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, select

from core.truth.many_rows import insert_rows
from core.truth.records import AuditRecord
from core.truth.tables import audit_log

Action = Literal[
    "memory.remembered",
    "memory.revised",
    "memory.deleted",
    "memory.purged",
    "collection.deleted",
    "collection.purged",
    "job.cancelled",
    "tenant.created",
    "tenant.changed",
    "tenant.exported",
    "tenant.deleted",
    "tenant.purged",
    "key.issued",
    "key.rotated",
    "key.revoked",
    "adapter.loaded",
    "adapter.unloaded",
]
SubjectKind = Literal["memory", "collection", "job", "tenant", "key"]
Subject = tuple[SubjectKind, str]
"""What it was done to: its kind and its id."""
Deed = tuple[Subject, Mapping[str, Any]]
"""A subject, and what else there is to say of what was done to it."""


# Ids, numbers, digests, and words of ours; neither a space nor anything else that people's texts are made of.
_WORD = re.compile(r"[A-Za-z0-9_.:+-]{0,128}")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does it: `key:<key id>`, `admin`, `orchestrator`; and the request that asked for it."""

    name: str
    request_id: str | None = None


ADMIN = "admin"
ORCHESTRATOR = Actor("orchestrator")
UNNAMED = Actor("unnamed")
"""Of a deed whose caller did not say who it is; no process of ours does that."""


def of_key(key_id: str) -> str:
    return f"key:{key_id}"


def record(
    connection: Connection,
    tenant_id: str,
    actor: Actor,
    action: Action,
    subject: Subject,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Adds a record, in the transaction of the deed. It locks nothing but its own row.

    Raises `ValueError` where the id of the subject, or a word in `data`, may be something that a tenant wrote.
    """
    record_all(connection, tenant_id, actor, action, [(subject, data or {})])


def record_all(connection: Connection, tenant_id: str, actor: Actor, action: Action, deeds: Sequence[Deed]) -> None:
    """As `record`, of one action on many subjects, in one statement."""
    rows = [
        {
            "tenant_id": tenant_id,
            "actor": actor.name,
            "action": action,
            "subject_kind": kind,
            "subject_id": subject_id,
            "data": dict(data),
            "request_id": actor.request_id,
        }
        for (kind, subject_id), data in deeds
    ]
    for row in rows:
        _refuse_text([row["subject_id"], row["data"]])
    insert_rows(connection, audit_log, rows, "at")


def fingerprint(name: str) -> str:
    """Stands for what has a name instead of an id, such as a collection: those who know the name can find it."""
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def list_records(
    connection: Connection,
    tenant_id: str,
    *,
    after: int | None = None,
    limit: int = 20,
    action: str | None = None,
    subject_id: str | None = None,
) -> list[AuditRecord]:
    """Newest first; `after` is the id of the last one seen. Also of a tenant that is gone."""
    query = select(audit_log).where(audit_log.c.tenant_id == tenant_id)
    if action is not None:
        query = query.where(audit_log.c.action == action)
    if subject_id is not None:
        query = query.where(audit_log.c.subject_id == subject_id)
    if after is not None:
        query = query.where(audit_log.c.id < after)
    rows = connection.execute(query.order_by(audit_log.c.id.desc()).limit(limit))
    return [AuditRecord(**row._mapping) for row in rows]


def _refuse_text(value: Any) -> None:
    if isinstance(value, Mapping):
        _refuse_text([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for part in value:
            _refuse_text(part)
    elif not (value is None or isinstance(value, int | float) or (isinstance(value, str) and _WORD.fullmatch(value))):
        raise ValueError("An audit record names things by their ids and repeats nothing that a tenant wrote.")
