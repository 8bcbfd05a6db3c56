"""`python -m orchestrator.sealing`: seals, once, beside a running stack, what was stored before objects were sealed."""

from __future__ import annotations

import sys

from core.encryption.envelope import is_sealed
from core.encryption.sealed_store import SealedStore, open_sealed_store
from core.errors import LatentBankError, NotFound, ObjectMissing
from core.logs import configure_logs, get_logger
from core.settings import Settings
from core.storage.keys import ROOT, owner_of
from core.storage.object_store import ObjectStore
from core.storage.opening import open_store
from core.truth import memories
from core.truth.database import Database

_log = get_logger(__name__)


def seal_all(database: Database, plain: ObjectStore, sealed: SealedStore) -> int:
    """Seals every object of ours in `plain` that is not; returns how many. What is being deleted is left alone."""
    done = 0
    for found in plain.list(ROOT):
        owner = owner_of(found.key)
        if owner is None:
            continue
        try:
            data = plain.get(found.key)
            if is_sealed(data) or _is_deleted(database, owner.memory_id):
                continue
            sealed.put(found.key, data)
        except (ObjectMissing, NotFound):  # deleted meanwhile
            continue
        if _is_deleted(database, owner.memory_id):
            # Its purge may have come between the read and the write.
            plain.delete(found.key)
        done += 1
    return done


def _is_deleted(database: Database, memory_id: str) -> bool:
    with database.read() as connection:
        row = memories.by_ids(connection, [memory_id]).get(memory_id)
    return row is None or row[0].status == "deleted"


def main() -> int:
    settings = Settings()
    configure_logs("sealing", settings)
    database = Database(settings.resolved_database_url)
    try:
        database.migrate()
        done = seal_all(database, open_store(settings), open_sealed_store(settings, database))
    except LatentBankError as problem:
        _log.error("not all objects could be sealed; run it again", code=problem.code, reason=problem.message)
        return 1
    finally:
        database.dispose()
    _log.info("all objects are sealed", sealed_now=done)
    return 0


if __name__ == "__main__":
    sys.exit(main())
