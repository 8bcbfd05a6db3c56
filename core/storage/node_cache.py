"""The node's disk tier: adapters by digest in one directory that all processes of the node share.

<directory>/<hex digest>/…     a whole, verified adapter; its time of change is when it was last used
<directory>/.incoming/<hex>/   being downloaded or being removed, by whoever holds the lock
<directory>/.locks/<hex>       the lock file of one digest
"""

from __future__ import annotations

import heapq
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core.errors import ObjectCorrupt, StorageError
from core.logs import get_logger
from core.storage.file_lock import locked, try_locked
from core.storage.manifest import Manifest, ManifestFile, describe_file
from core.storage.object_store import ObjectStore
from core.storage.retries import retrying

ATTEMPTS = 3
_ROUNDS = 8
"""How often a reader fetches an adapter that is evicted, or has gone bad, before it could be read."""

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One adapter on disk: its hex digest, its bytes, and when it was last used (seconds since the epoch)."""

    name: str
    bytes: int
    used_at: float


def victims(entries: Iterable[CacheEntry], room: int) -> list[CacheEntry]:
    """The entries to remove, longest unused first, so that the rest takes at most `room` bytes."""
    ordered = sorted(entries, key=lambda entry: (entry.used_at, entry.name))
    excess = sum(entry.bytes for entry in ordered) - room
    chosen = []
    for entry in ordered:
        if excess <= 0:
            break
        chosen.append(entry)
        excess -= entry.bytes
    return chosen


class NodeCache:
    """At most `max_bytes` of adapters, plus those in use. Safe for many threads and processes."""

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        store: ObjectStore,
        *,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self.store = store
        self._attempts = attempts
        self._sleep = sleep
        self._now = now
        for folder in (self._incoming, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        self._sweep()

    def fetch(self, manifest: Manifest) -> Path:
        """The directory with the adapter's verified files; downloads them unless they are here.

        However many ask, the node downloads once. Raises `ObjectMissing`, `ObjectCorrupt` where the bytes are not the
        manifest's, or `StorageError`; nothing is then left behind. The directory may be evicted once it is the longest
        unused: read it within `reading` where that matters.
        """
        with self.reading(manifest) as directory:
            return directory

    @contextmanager
    def reading(self, manifest: Manifest) -> Iterator[Path]:
        """As `fetch`, and nobody removes the directory until the block ends."""
        name = _name_of(manifest.adapter_digest)
        verified: int | None = None
        for _ in range(_ROUNDS):
            with locked(self._locks / name, shared=True):
                if (verified is not None and self._inode(name) == verified) or self._is_whole(name, manifest):
                    self._touch(name)
                    yield self._directory / name
                    return
            verified = self._provide(name, manifest)
        raise StorageError("The node cache loses adapters as fast as they are fetched; check its disk and its size.")

    def contains(self, digest: str) -> bool:
        """Whether a `fetch` would find the adapter on disk."""
        return (self._directory / _name_of(digest)).is_dir()

    def last_used(self, most: int) -> tuple[str, ...]:
        """Digests of the at most `most` adapters that were used last, newest first; no file of theirs is looked at."""
        found = []
        with os.scandir(self._directory) as directories:
            for one in directories:
                if _HEX.fullmatch(one.name):
                    with suppress(FileNotFoundError):  # removed meanwhile
                        found.append((one.stat().st_mtime, one.name))
        return tuple(f"sha256:{name}" for _, name in heapq.nlargest(most, found))

    def digests(self) -> tuple[str, ...]:
        """Of all adapters on disk; no file of theirs is looked at."""
        with os.scandir(self._directory) as directories:
            return tuple(f"sha256:{one.name}" for one in directories if _HEX.fullmatch(one.name))

    def drop(self, digest: str) -> None:
        """Removes an adapter, after whoever is reading it; nothing happens where there is none."""
        name = _name_of(digest)
        with locked(self._locks / name, remove=True):
            self._remove(name)

    def entries(self) -> list[CacheEntry]:
        return [entry for path in self._directory.iterdir() if (entry := _entry(path)) is not None]

    @property
    def _incoming(self) -> Path:
        return self._directory / ".incoming"

    @property
    def _locks(self) -> Path:
        return self._directory / ".locks"

    def _is_whole(self, name: str, manifest: Manifest) -> bool:
        """Reads and compares every byte: a digest in an answer has to be true of what was loaded."""
        directory = self._directory / name
        if not directory.is_dir():
            return False
        try:
            for file in manifest.files:
                _compare(directory / file.name, file)
        except ObjectCorrupt as problem:
            get_logger(__name__).warning("node_cache_entry_corrupt", digest=name, problem=problem.message)
            return False
        return True

    def _provide(self, name: str, manifest: Manifest) -> int | None:
        """The inode of the directory that holds the files, which have just been compared."""
        lock = self._locks / name
        try:
            with locked(lock):
                if not self._is_whole(name, manifest):
                    self._remove(name)
                    self._download(name, manifest)
                return self._inode(name)
        except StorageError:
            with try_locked(lock, remove=True):
                raise

    def _inode(self, name: str) -> int | None:
        try:
            return (self._directory / name).stat().st_ino
        except FileNotFoundError:
            return None

    def _download(self, name: str, manifest: Manifest) -> None:
        """All files at once. They are not forced to the disk: what a power cut tears is noticed when it is read."""
        self._make_room(name, manifest.total_bytes)
        incoming = self._incoming / name
        shutil.rmtree(incoming, ignore_errors=True)
        try:
            incoming.mkdir()
            with ThreadPoolExecutor(len(manifest.files), "download") as pool:
                list(pool.map(partial(self._download_file, manifest, incoming), manifest.files))
            incoming.rename(self._directory / name)
        except OSError as failure:
            raise StorageError(f"The node cache could not be written: {failure.strerror}.") from failure
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _download_file(self, manifest: Manifest, incoming: Path, file: ManifestFile) -> None:
        def action() -> None:
            self.store.download(manifest.key_of(file), incoming / file.name)
            _compare(incoming / file.name, file)

        retrying(action, attempts=self._attempts, sleep=self._sleep)

    def _make_room(self, name: str, needed: int) -> None:
        """Evicts what is longest unused; what is being read or written stays, and the cache is larger for a while."""
        entries = [entry for entry in self.entries() if entry.name != name]
        for victim in victims(entries, self._max_bytes - needed):
            with try_locked(self._locks / victim.name, remove=True) as held:
                if held:
                    self._remove(victim.name)

    def _remove(self, name: str) -> None:
        """Only under the lock of `name`. Renamed first, so that no half of an adapter is ever seen."""
        doomed = self._incoming / name
        shutil.rmtree(doomed, ignore_errors=True)
        try:
            (self._directory / name).rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed)

    def _touch(self, name: str) -> None:
        now = self._now()
        os.utime(self._directory / name, (now, now))

    def _sweep(self) -> None:
        """Removes what crashed processes left half done."""
        for path in self._incoming.iterdir():
            if _HEX.fullmatch(path.name):
                with try_locked(self._locks / path.name, remove=not self.contains(f"sha256:{path.name}")) as held:
                    if held:
                        shutil.rmtree(path, ignore_errors=True)


def _name_of(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise ObjectCorrupt(f"{digest[:80]!r} is not a digest.")
    return match[1]


def _entry(path: Path) -> CacheEntry | None:
    if not _HEX.fullmatch(path.name):
        return None
    try:
        size = sum(file.stat().st_size for file in path.iterdir())
        return CacheEntry(path.name, size, path.stat().st_mtime)
    except OSError:  # removed meanwhile
        return None


def _compare(path: Path, expected: ManifestFile) -> None:
    try:
        found = describe_file(expected.name, path.read_bytes())
    except OSError as unreadable:
        raise ObjectCorrupt(f"{expected.name} can't be read: {unreadable.strerror}.") from unreadable
    if found != expected:
        raise ObjectCorrupt(f"{expected.name} has {found.bytes} other bytes than the {expected.bytes} of its manifest.")
