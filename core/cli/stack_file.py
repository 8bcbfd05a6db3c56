"""How other terminals find the stack that runs on a data directory: one file, and the lock that its owner holds."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from core.errors import Conflict

_FILE = "stack.json"
_LOCK = "stack.lock"


@dataclass(frozen=True, slots=True)
class RunningStack:
    """Where a stack answers; `processes` maps a process's name to its metrics address."""

    pid: int
    gateway_url: str
    processes: dict[str, str]


def read_stack_file(data_dir: Path) -> RunningStack | None:
    """The stack running on `data_dir`, or None; a file that a crash left behind counts as none."""
    if not _held(data_dir / _LOCK):
        return None
    try:
        return RunningStack(**json.loads((data_dir / _FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_stack_file(data_dir: Path, running: RunningStack) -> None:
    partial = data_dir / f"{_FILE}.{os.getpid()}"
    partial.write_text(json.dumps(asdict(running), indent=2), encoding="utf-8")
    partial.replace(data_dir / _FILE)


@contextmanager
def owning(data_dir: Path) -> Iterator[None]:
    """Makes the caller the only stack on `data_dir` until it leaves. Raises `Conflict` where another one is."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / _LOCK).open("a") as lock:
        if not _taken(lock):
            raise Conflict(_who_is_there(data_dir))
        try:
            yield
        finally:
            (data_dir / _FILE).unlink(missing_ok=True)


def _taken(lock: IO[str]) -> bool:
    # Another terminal that looks whether the lock is held holds it, shared, for an instant.
    for _ in range(5):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def _held(lock: Path) -> bool:
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _who_is_there(data_dir: Path) -> str:
    running = read_stack_file(data_dir)
    who = f" at {running.gateway_url} (process {running.pid})" if running else ""
    return f"A stack already runs on {data_dir}{who}; stop it, or set LATENTBANK_DATA_DIR to another directory."
