"""Puts the tenants' keys under the present master key, so that an earlier one can be thrown away."""

from __future__ import annotations

from core.encryption.master_keys import MasterKeys
from core.errors import LatentBankError
from core.logs import get_logger
from core.truth import tenant_keys
from core.truth.database import Database
from core.truth.records import TenantKey

_BATCH = 500

_log = get_logger(__name__)


class Rewrapping:
    """Any number may run: each key is changed only where nobody else has. No object is touched."""

    def __init__(self, database: Database, masters: MasterKeys) -> None:
        self._database = database
        self._masters = masters

    def run_once(self) -> int:
        """How many keys were rewrapped; one that can't be is logged and left."""
        done, after = 0, ""
        while True:
            with self._database.read() as connection:
                keys = tenant_keys.wrapped_by_others(connection, self._masters.id, after, _BATCH)
            if not keys:
                break
            done += sum(map(self._rewrap, keys))
            after = keys[-1].id
        if done:
            _log.info("keys rewrapped", keys=done, master_id=self._masters.id)
        return done

    def _rewrap(self, key: TenantKey) -> bool:
        try:
            data_key = self._masters.unwrap(key.wrapped, key.master_id, key.tenant_id, key.id)
        except LatentBankError as problem:
            _log.error("key not rewrapped", key_id=key.id, tenant_id=key.tenant_id, reason=problem.message)
            return False
        wrapped = self._masters.wrap(data_key, key.tenant_id, key.id)
        with self._database.begin() as connection:
            return tenant_keys.rewrap(connection, key, self._masters.id, wrapped)
