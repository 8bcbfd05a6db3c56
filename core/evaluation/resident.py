"""The most memory that a process and its children hold at once, sampled while something runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

PERIOD_SECONDS = 0.5


@dataclass(slots=True)
class Peak:
    """Bytes of resident memory of all processes together; pages that they share are counted by each."""

    bytes: int = 0


@contextmanager
def watching(pid: int, period: float = PERIOD_SECONDS, read: Callable[[int], int] | None = None) -> Iterator[Peak]:
    """Samples the tree of `pid` until the block ends; the peak grows meanwhile."""
    peak, over = Peak(), threading.Event()
    take = read or tree_bytes

    def watch() -> None:
        while True:
            peak.bytes = max(peak.bytes, take(pid))
            if over.wait(period):
                return

    thread = threading.Thread(target=watch, name="resident-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def tree_bytes(pid: int) -> int:
    """Resident bytes of `pid` and all its descendants; 0 where it is gone."""
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_own_bytes, tree))


def _own_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
