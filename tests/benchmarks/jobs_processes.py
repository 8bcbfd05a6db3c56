"""The processes of the queue's benchmark, and what each of them takes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_ROOT = Path(__file__).parents[2]


class Process:
    """A process from `__enter__` to `__exit__`, which asks it to end."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], output: int | IO[bytes]
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._output = output
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self._environment},
            stdout=self._output,
            stderr=self._output,
            cwd=_ROOT,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def rss_bytes(self) -> dict[str, int]:
        """Resident bytes of the process and of each of its descendants, by what they are."""
        return {
            self.name if pid == self.process.pid else f"{self.name}: {_what(pid)}": rss_bytes(pid)
            for pid in [self.process.pid, *_descendants(self.process.pid)]
        }


def rss_bytes(pid: int) -> int:
    """0 where the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [found for child in map(int, children) for found in (child, *_descendants(child))]


def _what(pid: int) -> str:
    """The module that a Python process runs; a pool process, which is forked, has its parent's."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    module = words[words.index("-m") + 1].rsplit(".", 1)[-1] if "-m" in words[:-1] else "process"
    return "pool process" if module == "jobs_worker" else module
