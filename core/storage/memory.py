"""The in-memory double of an object store, for tests; it keeps the same contract as the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from core.errors import ObjectMissing
from core.storage.object_store import BINARY, ObjectInfo, check_key, folder


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryStore:
    """Objects in a dictionary; `now` is the store's clock."""

    def __init__(self, now: Callable[[], datetime] = _utc_now) -> None:
        self._now = now
        self._lock = Lock()
        self._objects: dict[str, tuple[bytes, datetime]] = {}

    def put(self, key: str, data: bytes, content_type: str = BINARY) -> None:
        check_key(key)
        with self._lock:
            self._objects[key] = (bytes(data), self._now())

    def get(self, key: str) -> bytes:
        check_key(key)
        with self._lock:
            if key not in self._objects:
                raise ObjectMissing(f"There is no object {key}.")
            return self._objects[key][0]

    def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        with self._lock:
            if key not in self._objects:
                return None
            data, modified = self._objects[key]
        return ObjectInfo(key, len(data), modified)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        start = folder(prefix)
        with self._lock:
            present = sorted(self._objects.items())
        return iter([ObjectInfo(key, len(data), at) for key, (data, at) in present if key.startswith(start)])

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self._objects.pop(key, None)

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def check(self) -> None:
        return None
