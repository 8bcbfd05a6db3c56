"""The adapters of the tenants' banks, as routing needs them; read once for each revision of a bank."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from core.truth.database import Database
from core.truth.memories import ready_digests
from core.truth.records import Tenant
from gateway.holdings import Keys, keys_of

MOST_ADAPTERS = 1024
"""Of a larger bank the newest memories stand for the rest."""
MOST_BANKS = 10_000


class Banks:
    """At most `MOST_BANKS` banks of 8 bytes an adapter, those of the tenants that asked last. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[str, tuple[int, Keys]] = OrderedDict()
        self._lock = Lock()

    def keys(self, tenant: Tenant) -> Keys:
        """Keys of the tenant's ready adapters, shape (n,), as of its `bank_revision` or later."""
        with self._lock:
            revision, keys = self._known.get(tenant.id, (None, None))
            if keys is not None and revision == tenant.bank_revision:
                self._known.move_to_end(tenant.id)
                return keys
        with self._database.read() as connection:
            keys = keys_of(ready_digests(connection, tenant.id, MOST_ADAPTERS))
        with self._lock:
            self._known[tenant.id] = (tenant.bank_revision, keys)
            self._known.move_to_end(tenant.id)
            if len(self._known) > MOST_BANKS:
                self._known.popitem(last=False)
        return keys
