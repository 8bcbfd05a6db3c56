"""A supervisor's own directory on the node's disk; what a crashed one left behind is removed by the next to start."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def scratch_directory(root: Path, name: str) -> Iterator[Path]:
    """`root/name`, fresh and locked; gone at the end. Every directory beside it whose lock is free is removed first."""
    root.mkdir(parents=True, exist_ok=True)
    directory = root / name
    with (root / ".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        _sweep(root)
        directory.mkdir()
        lock = _lock(directory)
    assert lock is not None, "the directory is new"
    try:
        with lock:
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _sweep(root: Path) -> None:
    for directory in root.iterdir():
        if directory.is_dir() and (lock := _lock(directory)) is not None:
            with lock:
                shutil.rmtree(directory, ignore_errors=True)


def _lock(directory: Path) -> IO[bytes] | None:
    """Held until it is closed here and in every child that was forked meanwhile; `None` where another holds it."""
    lock = (directory / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
