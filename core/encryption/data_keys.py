"""The tenants' data keys, ready to use: from the truth, unwrapped, kept for moments only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.encryption.envelope import KEY_BYTES
from core.encryption.master_keys import MasterKeys
from core.errors import KeyMissing
from core.ids import new_id
from core.truth import tenant_keys
from core.truth.database import Database
from core.truth.records import TenantKey

KEPT_SECONDS = 10.0
"""How long a process may still use a key that was destroyed elsewhere; each use after that asks the truth."""


@dataclass(frozen=True, slots=True)
class DataKey:
    id: str
    cipher: AESGCM = field(repr=False)


class DataKeys:
    """Thread-safe. Raises `MasterKeyMissing` where the settings lack what unwraps a key."""

    def __init__(self, database: Database, masters: MasterKeys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._masters = masters
        self._clock = clock
        self._kept: dict[tuple[str, str | None], tuple[float, DataKey]] = {}
        self._lock = threading.Lock()

    def sealing(self, tenant_id: str) -> DataKey:
        """The key for what is new; the tenant's first is made here. Raises `NotFound` for a tenant that is gone."""
        return self._known(tenant_id, None) or self._keep(tenant_id, None, self._current(tenant_id))

    def opening(self, tenant_id: str, key_id: str) -> DataKey:
        """The key with that id. Raises `KeyMissing` where it is destroyed or not this tenant's."""
        known = self._known(tenant_id, key_id)
        if known is not None:
            return known
        with self._database.look() as connection:
            found = tenant_keys.find(connection, tenant_id, key_id)
        if found is None:
            raise KeyMissing
        return self._keep(tenant_id, key_id, found)

    def expire(self) -> None:
        """Lets go of every key that is due to be asked for again: a process that idles keeps none."""
        with self._lock:
            now = self._clock()
            self._kept = {name: kept for name, kept in self._kept.items() if now < kept[0]}

    def _current(self, tenant_id: str) -> TenantKey:
        with self._database.look() as connection:
            there = tenant_keys.current(connection, tenant_id)
        if there is not None:
            return there
        key_id = new_id("dek")
        wrapped = self._masters.wrap(os.urandom(KEY_BYTES), tenant_id, key_id)
        with self._database.begin() as connection:
            return tenant_keys.add_first(connection, TenantKey(key_id, tenant_id, self._masters.id, wrapped))

    def _known(self, tenant_id: str, key_id: str | None) -> DataKey | None:
        with self._lock:
            until, key = self._kept.get((tenant_id, key_id), (float("-inf"), None))
            return key if self._clock() < until else None

    def _keep(self, tenant_id: str, key_id: str | None, found: TenantKey) -> DataKey:
        data_key = self._masters.unwrap(found.wrapped, found.master_id, tenant_id, found.id)
        key = DataKey(found.id, AESGCM(data_key))
        self.expire()
        with self._lock:
            for name in {(tenant_id, key_id), (tenant_id, found.id)}:
                self._kept[name] = self._clock() + KEPT_SECONDS, key
        return key
