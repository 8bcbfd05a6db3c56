"""Garbage: objects that no row of the truth names, and the objects of deleted memories.

A row names its context, the attempt folder of its manifest, and, while a job of it is open, everything below the
memory: the next claim may adopt what an earlier one uploaded. What is younger than a margin stays, and rows are asked
again right before the deletion. Keys that LatentBank did not make are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import islice

from core.errors import StorageError
from core.logs import get_logger
from core.metrics import OrchestratorMetrics
from core.settings import JobSettings
from core.storage.keys import ROOT, memory_prefix, owner_of
from core.storage.object_store import ObjectInfo, ObjectStore
from core.truth import forgetting, memories
from core.truth.database import Database
from core.truth.records import Memory

_BATCH = 500
_PURGES = 8
"""Memories whose objects are removed at once: a store far away is waited for, not worked for."""

_log = get_logger(__name__)


class GarbageCollector:
    """Any number may run: deleting twice is deleting once."""

    def __init__(
        self, database: Database, store: ObjectStore, settings: JobSettings, metrics: OrchestratorMetrics
    ) -> None:
        self._database = database
        self._store = store
        self._margin = timedelta(seconds=settings.garbage_margin_seconds)
        self._metrics = metrics

    def purge_deleted(self, go_on: Callable[[], bool] = lambda: True) -> list[str]:
        """Removes the objects of all deleted memories that no open job writes for, and what their rows say, in batches
        while `go_on` says so; returns the memories now purged."""
        purged: list[str] = []
        last = ""
        while go_on():
            with self._database.read() as connection:
                batch = memories.deleted_unpurged(connection, _BATCH, last)
            if not batch:
                break
            last = batch[-1].id
            purged += self._purge(batch)
        if purged:
            _log.info("memories purged", memories=len(purged))
        return purged

    def _purge(self, batch: Sequence[Memory]) -> list[str]:
        with ThreadPoolExecutor(_PURGES, "purge") as threads:
            emptied = list(threads.map(self._empty, batch))
        purged = [memory.id for memory, is_empty in zip(batch, emptied, strict=True) if is_empty]
        if purged:
            with self._database.begin() as connection:
                forgetting.purge_rows(connection, purged)
        return purged

    def collect(self) -> int:
        """Removes what no row names and is older than the margin, by the clocks of the store and the database."""
        with self._database.read() as connection:
            oldest_kept = self._database.now(connection) - self._margin
        old = (found for found in self._store.list(ROOT) if found.modified < oldest_kept)
        removed = 0
        for batch in _batches(old, _BATCH):
            removed += sum(self._delete(found.key) for found in self._unnamed(self._unnamed(batch)))
        if removed:
            self._metrics.garbage_removed.inc(removed)
            _log.info("garbage removed", objects=removed)
        return removed

    def _empty(self, memory: Memory) -> bool:
        """Whether all of the memory's objects are gone; one that is left holds up no other memory."""
        try:
            keys = [found.key for found in self._store.list(memory_prefix(memory.tenant_id, memory.id))]
        except StorageError as problem:
            _log.warning("memory not purged yet", memory_id=memory.id, reason=problem.message)
            return False
        return all([self._delete(key) for key in keys])

    def _delete(self, key: str) -> bool:
        """Whether the object is gone; the next pass tries again."""
        try:
            self._store.delete(key)
        except StorageError as problem:
            _log.warning("object not removed yet", key=key, reason=problem.message)
            return False
        return True

    def _unnamed(self, found: Iterable[ObjectInfo]) -> list[ObjectInfo]:
        ours = [(info, owner) for info in found if (owner := owner_of(info.key)) is not None]
        if not ours:
            return []
        with self._database.read() as connection:
            rows = memories.by_ids(connection, (owner.memory_id for _, owner in ours))
        return [info for info, owner in ours if not is_named(info.key, owner.tenant_id, owner.memory_id, rows)]


def is_named(key: str, tenant_id: str, memory_id: str, rows: Mapping[str, tuple[Memory, bool]]) -> bool:
    """Whether a row names the object. `rows`: the known memories, each with whether a job of it is open."""
    if memory_id not in rows:
        return False
    memory, has_open_job = rows[memory_id]
    if memory.tenant_id != tenant_id:
        return False
    if has_open_job:
        return True
    if memory.status == "deleted":
        return False
    if key == memory.context_key:
        return True
    return memory.manifest_key is not None and key.rsplit("/", 1)[0] == memory.manifest_key.rsplit("/", 1)[0]


def _batches(found: Iterator[ObjectInfo], size: int) -> Iterator[list[ObjectInfo]]:
    while batch := list(islice(found, size)):
        yield batch
