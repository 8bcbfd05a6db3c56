"""The loss curve of a memory, from its manifest's training report or else from its job's progress events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from core.settings import Settings
from core.truth.database import Database
from core.truth.jobs import list_events
from core.truth.records import JobEvent

Losses = tuple[tuple[int, float], ...]
"""`(step, nats per answer token)`, steps from 1."""

_PAGE = 100


def read_losses(settings: Settings, tenant_id: str, job_id: str, training: Mapping[str, Any]) -> Losses:
    """The curve of a job; `training` is the report in the memory's manifest."""
    listed = training.get("losses")
    if isinstance(listed, list) and all(isinstance(loss, int | float) for loss in listed):
        return tuple((step, float(loss)) for step, loss in enumerate(listed, 1))
    database = Database(settings.resolved_database_url)
    try:
        return losses_of(_events(database, tenant_id, job_id))
    finally:
        database.dispose()


def losses_of(events: Iterable[JobEvent]) -> Losses:
    """Of each step the loss that was told last, in the order of steps."""
    found: dict[int, float] = {}
    for event in events:
        step, loss = event.data.get("step"), event.data.get("loss")
        if isinstance(step, int) and isinstance(loss, int | float):
            found[step] = float(loss)
    return tuple(sorted(found.items()))


def _events(database: Database, tenant_id: str, job_id: str) -> list[JobEvent]:
    events: list[JobEvent] = []
    with database.read() as connection:
        while True:
            after = events[-1].id if events else 0
            page = list_events(connection, tenant_id, job_id, after=after, limit=_PAGE)
            events.extend(page)
            if len(page) < _PAGE:
                return events
