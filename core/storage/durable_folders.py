"""Folders whose names are on disk, all the way up: what a synced file still needs to outlive a power failure."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

_KEPT = 256
"""Folders remembered; each keeps a file descriptor, so that its inode is not given to another folder meanwhile."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """`identity` is the file system's; as long as `handle` is open, nothing else has it."""

    handle: int
    identity: tuple[int, int]


class DurableFolders:
    """Makes folders below `root`, and remembers which of them need no sync any more. For any number of threads.

    Who made a folder does not matter: one that is seen for the first time may have been made by another process that
    has not synced it yet. One that was removed and made again is another one.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: OrderedDict[Path, _Folder] = OrderedDict()
        self._lock = Lock()

    def make(self, folder: Path) -> None:
        """The folder is there, and so it will be after a power failure. Raises `OSError`."""
        missing: list[Path] = []
        while folder != self._root and not self._is_known(folder):
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            handle = os.open(one, os.O_RDONLY | os.O_DIRECTORY)
            try:
                sync_folder(one.parent)
            except BaseException:
                os.close(handle)
                raise
            self._remember(one, handle)

    def _is_known(self, folder: Path) -> bool:
        with self._lock:
            known = self._known.get(folder)
            if known is None:
                return False
            self._known.move_to_end(folder)
        try:
            return known.identity == _identity(folder.stat())
        except FileNotFoundError:
            return False

    def _remember(self, folder: Path, handle: int) -> None:
        with self._lock:
            forgotten = self._known.pop(folder, None)
            self._known[folder] = _Folder(handle, _identity(os.fstat(handle)))
            if forgotten is None and len(self._known) > _KEPT:
                _, forgotten = self._known.popitem(last=False)
        if forgotten is not None:
            os.close(forgotten.handle)

    def close(self) -> None:
        """Gives the descriptors back; what is asked for later is synced again."""
        with self._lock:
            while self._known:
                os.close(self._known.popitem()[1].handle)

    def __del__(self) -> None:
        self.close()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on disk; one that is gone has none."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
