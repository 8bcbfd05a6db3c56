"""An object store whose objects are sealed with their tenants' keys: readers and writers know nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.encryption.data_keys import DataKeys
from core.encryption.envelope import is_sealed, key_id_of, seal, unseal
from core.encryption.master_keys import open_master_keys
from core.errors import InvalidKey, SetupError
from core.settings import Settings
from core.storage.keys import owner_of
from core.storage.object_store import BINARY, ObjectInfo, ObjectStore
from core.storage.opening import open_store
from core.truth import tenant_keys
from core.truth.database import Database


class SealedStore:
    """All that is written is sealed; what was stored before there was encryption is read as it is.

    Sizes (`head`, `list`) are those of sealed objects. Beside the errors of the store raises `KeyMissing` where the key
    is destroyed, `ObjectCorrupt` where bytes or place are not those that were sealed, `InvalidKey` where an object
    would be nobody's, and `NotFound` on a write for a tenant that is gone.
    """

    def __init__(self, store: ObjectStore, keys: DataKeys) -> None:
        self._store = store
        self.keys = keys

    def put(self, key: str, data: bytes, content_type: str = BINARY) -> None:
        data_key = self.keys.sealing(_tenant_of(key))
        self._store.put(key, seal(data, key, data_key.id, data_key.cipher), BINARY)

    def get(self, key: str) -> bytes:
        data = self._store.get(key)
        if not is_sealed(data):
            return data
        data_key = self.keys.opening(_tenant_of(key), key_id_of(data, key))
        return unseal(data, key, data_key.cipher)

    def head(self, key: str) -> ObjectInfo | None:
        return self._store.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def download(self, key: str, path: Path) -> None:
        """Through memory: no byte of it is worth anything before all of them are verified."""
        data = self.get(key)
        try:
            path.write_bytes(data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def check(self) -> None:
        self._store.check()


def open_sealed_store(settings: Settings, database: Database) -> SealedStore:
    """The store that the settings name, sealed. Asks the truth; raises `SetupError` where a master key is lacking."""
    masters = open_master_keys(settings)
    with database.read() as connection:
        lacking = sorted(id_ for id_ in tenant_keys.masters_in_use(connection) if id_ not in masters)
    if lacking:
        raise SetupError(
            f"Tenants' keys are wrapped by the master key {', '.join(lacking)}, and the one set here is {masters.id}; "
            "put the former into LATENTBANK_OLD_MASTER_KEYS until they are rewrapped."
        )
    return SealedStore(open_store(settings), DataKeys(database, masters))


def _tenant_of(key: str) -> str:
    owner = owner_of(key)
    if owner is None:
        raise InvalidKey(f"{key[:80]!r} is no tenant's object.")
    return owner.tenant_id
