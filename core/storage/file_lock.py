"""Locks between the threads and processes of one machine, held on a file (flock); a dead process holds none."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, shared: bool = False, remove: bool = False) -> Iterator[None]:
    """Waits for the lock on `path`. `remove` deletes the lock file at the end, which only its holder may do."""
    handle = None
    while handle is None:
        handle = _lock(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        _release(handle, path, remove)


@contextmanager
def try_locked(path: Path, *, remove: bool = False) -> Iterator[bool]:
    """Takes the lock if nobody has it; the block runs anyway and is told whether it holds it."""
    handle = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            _release(handle, path, remove)


def _lock(path: Path, how: int) -> int | None:
    """A handle that holds the lock; `None` where another has it, or removed the file while this one waited."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how)
        if _is_same(handle, path):
            return handle
    except BlockingIOError:
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _is_same(handle: int, path: Path) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(handle)
    return (held.st_dev, held.st_ino) == (now.st_dev, now.st_ino)


def _release(handle: int, path: Path, remove: bool) -> None:
    if remove:
        path.unlink(missing_ok=True)
    os.close(handle)
