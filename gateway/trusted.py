"""Which announced workers are asked: those whose announcement is signed with the internal token.

Whoever can write the database but does not know the token can't send questions to an address of theirs.
"""

from __future__ import annotations

from core.internal import Secrets, proven
from core.logs import get_logger
from core.truth.database import Database
from core.truth.records import WorkerRecord
from core.truth.workers import alive

_log = get_logger(__name__)


class Trusted:
    """Thread-safe. Without a token no worker is trusted."""

    def __init__(self, database: Database, shared: Secrets | None) -> None:
        self._database = database
        self._shared = shared
        self._refused: frozenset[str] = frozenset()

    def workers(self) -> list[WorkerRecord]:
        """The inference workers that are alive by the database and proven by their signature; reads the database."""
        with self._database.read() as connection:
            announced = alive(connection, "inference")
        shared = self._shared
        trusted = [one for one in announced if shared is not None and proven(shared, one.id, one.url, one.info)]
        refused = frozenset(one.id for one in announced) - {one.id for one in trusted}
        for worker_id in refused - self._refused:
            _log.error("an inference worker is not asked: it was announced with another token", worker_id=worker_id)
        self._refused = refused
        return trusted
