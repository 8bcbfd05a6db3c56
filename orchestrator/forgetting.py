"""What is deleted goes step by step, from the tombstone to the attestation; each step is safe to do twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from core.errors import StorageError
from core.logs import get_logger
from core.storage.keys import tenant_prefix
from core.storage.object_store import ObjectStore
from core.truth import deletions, forgetting
from core.truth.audit import ORCHESTRATOR, record
from core.truth.database import Database
from core.truth.records import Deletion
from orchestrator.garbage import GarbageCollector

_AT_ONCE = 500

_log = get_logger(__name__)


class Forgetting:
    """Any number may run. `stopping` ends a long pass early; the next one goes on there."""

    def __init__(
        self, database: Database, store: ObjectStore, garbage: GarbageCollector, stopping: Callable[[], bool]
    ) -> None:
        self._database = database
        self._store = store
        self._garbage = garbage
        self._stopping = stopping

    def run_once(self) -> None:
        """All that can be done now for every deletion on its way."""
        for deletion in self._on_their_way():
            if deletion.tombstoned_at is None:
                forgetting.tombstone_all(self._database, deletion, lambda: not self._stopping())
        with self._database.begin() as connection:
            deletions.mark_draining(connection)
        self._garbage.purge_deleted(lambda: not self._stopping())
        waiting = [one for one in self._on_their_way() if one.tombstoned_at and not one.purged_at]
        clear = [one for one in waiting if self._is_clear(one)]
        # Before it is said that no text is left: the rows were overwritten, but the log still has what they were.
        if clear and self._database.flush_log():
            for deletion in clear:
                self._purged(deletion)
        self._drain()
        with self._database.begin() as connection:
            deletions.mark_attested(connection)

    def _on_their_way(self) -> Iterator[Deletion]:
        last = None
        while not self._stopping():
            with self._database.read() as connection:
                found = deletions.not_attested(connection, last, _AT_ONCE)
            yield from found
            if len(found) < _AT_ONCE:
                return
            last = found[-1]

    def _is_clear(self, deletion: Deletion) -> bool:
        """Whether neither objects nor texts in rows are left."""
        with self._database.read() as connection:
            if forgetting.unpurged(connection, deletion):
                return False
        return deletion.kind != "tenant" or self._clear_tenant(deletion.tenant_id)

    def _clear_tenant(self, tenant_id: str) -> bool:
        """What is the tenant's and no memory's: rows, and objects that an admission left which was refused."""
        while not self._stopping():
            with self._database.begin() as connection:
                if forgetting.purge_tenant_rows(connection, tenant_id):
                    break
        try:
            for found in list(self._store.list(tenant_prefix(tenant_id))):
                self._store.delete(found.key)
        except StorageError as problem:
            _log.warning("tenant not purged yet", tenant_id=tenant_id, reason=problem.message)
            return False
        return not self._stopping()

    def _purged(self, deletion: Deletion) -> None:
        with self._database.begin() as connection:
            if not deletions.mark_purged(connection, deletion.id):
                return
            subject = (deletion.kind, deletion.target)
            data = {"deletion_id": deletion.id, "memories": deletion.memories}
            match deletion.kind:
                case "memory":
                    record(connection, deletion.tenant_id, ORCHESTRATOR, "memory.purged", subject, data)
                case "collection":
                    record(connection, deletion.tenant_id, ORCHESTRATOR, "collection.purged", subject, data)
                case "tenant":
                    record(connection, deletion.tenant_id, ORCHESTRATOR, "tenant.purged", subject, data)
        _log.info("deletion purged", deletion_id=deletion.id, tenant_id=deletion.tenant_id, kind=deletion.kind)

    def _drain(self) -> None:
        """Notes which deletions every worker that was heard of has followed."""
        with self._database.read() as connection:
            followed = forgetting.followed(connection)
        for deletion in self._on_their_way():
            if deletion.drained_at is None and deletions.passed(deletion, followed):
                with self._database.begin() as connection:
                    if not forgetting.in_training(connection, deletion):
                        deletions.mark_drained(connection, deletion.id)
