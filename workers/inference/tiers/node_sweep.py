"""Removes from the node's disk what no memory names any more, whoever's it was and whatever this worker holds.

A worker forgets what its own banks lose. But a memory may be deleted, or get a new version, when no worker of the node
holds its bank: nobody then notices, so the disk itself is compared with the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from core.logs import get_logger
from core.truth.database import Database
from core.truth.memories import live_digests
from workers.inference.tiers.residency import Residency

AT_ONCE = 500
"""Digests in one query: within every database's limit of parameters."""

log = get_logger(__name__)


class NodeSweep:
    """Sweeps this node's cache, every `seconds` at most. Belongs to one thread.

    An adapter is named by the truth before anyone can fetch it, so nothing that is new is ever taken for old; and what
    is being read stays until it has been.
    """

    def __init__(
        self, database: Database, residency: Residency, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._residency = residency
        self._seconds = seconds
        self._clock = clock
        self._due = float("-inf")
        self.clean = False
        """Whether the last call swept, and nothing that had to go was left."""

    def sweep(self) -> int:
        """How many adapters were removed; 0 where it is not due. It stays due where database or disk raise."""
        self.clean = False
        if self._clock() < self._due:
            return 0
        gone = list(self._gone())
        self.clean = all([self._residency.forget(digest) for digest in gone])
        if gone:
            log.info("adapters that no memory names left the node", adapters=len(gone))
        self._due = self._clock() + self._seconds
        return len(gone)

    def _gone(self) -> Iterator[str]:
        found = self._residency.on_disk()
        for start in range(0, len(found), AT_ONCE):
            digests = found[start : start + AT_ONCE]
            with self._database.read() as connection:
                live = live_digests(connection, digests)
            yield from (digest for digest in digests if digest not in live)
