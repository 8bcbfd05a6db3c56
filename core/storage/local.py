"""Objects as files of a local directory: the embedded default."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from core.errors import ObjectMissing, StorageError
from core.storage.durable_folders import DurableFolders, sync_folder
from core.storage.object_store import BINARY, ObjectInfo, check_key, folder, is_key

_INCOMING = ".incoming"
"""Files being written; no key starts with a dot, so that it can't collide with an object."""

_PLACING_ATTEMPTS = 20


class LocalStore:
    """An object is a file under `directory`: written beside it, synced, then renamed into place."""

    def __init__(self, directory: Path) -> None:
        self._root = directory
        self._folders = DurableFolders(directory)
        with _failures(f"prepare {directory}"):
            (directory / _INCOMING).mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: bytes, content_type: str = BINARY) -> None:
        path = self._path(key)
        incoming = self._root / _INCOMING / secrets.token_hex(16)
        with _failures(f"write {key}"):
            try:
                _write_synced(incoming, data)
                self._place(incoming, path)
            finally:
                incoming.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with _failures(f"read {key}"), _absence(key):
            return path.read_bytes()

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            with _failures(f"look at {key}"), _absence(key):
                return _info(key, path) if path.is_file() else None
        except ObjectMissing:
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        top = self._root / folder(prefix)
        for directory, folders, names in os.walk(top, onerror=_refuse_silence):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(directory) / name
                key = path.relative_to(self._root).as_posix()
                info = self.head(key) if is_key(key) else None
                if info is not None:
                    yield info

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _failures(f"delete {key}"):
            path.unlink(missing_ok=True)
            self._remove_empty_folders(path.parent)

    def download(self, key: str, path: Path) -> None:
        source = self._path(key)
        with _failures(f"download {key}"):
            with _absence(key):
                readable = source.open("rb")
            try:
                with readable, path.open("wb") as writable:
                    shutil.copyfileobj(readable, writable, 1 << 20)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def check(self) -> None:
        if not os.access(self._root / _INCOMING, os.W_OK | os.X_OK):
            raise StorageError(f"The object directory {self._root} can't be written to.")

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _place(self, incoming: Path, path: Path) -> None:
        for _ in range(_PLACING_ATTEMPTS):
            try:
                self._folders.make(path.parent)
                incoming.replace(path)
                break
            except FileNotFoundError:  # a concurrent delete removed the empty folder
                continue
            except FileExistsError:  # or removed it just when it was found to be there
                if path.parent.is_file():
                    raise
        else:
            raise StorageError(f"The folder of {path.name} keeps vanishing.")
        sync_folder(path.parent)

    def _remove_empty_folders(self, directory: Path) -> None:
        while directory != self._root:
            try:
                directory.rmdir()
            except OSError:  # not empty, or already gone
                return
            directory = directory.parent


@contextmanager
def _failures(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        raise StorageError(f"The object directory could not {what}: {failure.strerror}.") from failure


@contextmanager
def _absence(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as missing:
        raise ObjectMissing(f"There is no object {key}.") from missing


def _refuse_silence(failure: OSError) -> None:
    """`os.walk` would skip a folder that it can't read; only one that is gone may be skipped."""
    if not isinstance(failure, FileNotFoundError):
        raise StorageError(f"The object directory could not list a folder: {failure.strerror}.") from failure


def _info(key: str, path: Path) -> ObjectInfo:
    status = path.stat()
    return ObjectInfo(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
