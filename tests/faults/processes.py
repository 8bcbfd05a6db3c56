"""Processes that are killed, stopped and started again, and the traces of theirs that should not be there."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.points import Part

_TAIL_BYTES = 3000


@dataclass
class Process:
    """One process, in a session of its own. `wanted`: it is to be started again when it ends."""

    name: str
    part: Part
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    wanted: bool = True
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self.wanted = True
        self.starts += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, env=dict(self.environment), stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL of this process alone; what it began has to see to its own end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, seconds: float = 40) -> int:
        """SIGTERM, for good; the exit code."""
        self.wanted = False
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(seconds)

    def end(self) -> None:
        self.wanted = False
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()

    def tail(self) -> str:
        return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace") if self.log.exists() else ""


def marked(mark: str) -> dict[int, str]:
    """The command line of every living process that was started under the mark, here or by any of its children."""
    wanted = f"FAULTS_MARK={mark}".encode()
    found = {}
    for entry in _processes():
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0") and state(int(entry.name)) != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
        except (OSError, ValueError):
            continue
    return found


def stopped(mark: str) -> list[int]:
    return [pid for pid in marked(mark) if state(pid) == "T"]


def state(pid: int) -> str:
    """The letter that Linux gives to the process's state; "Z" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def resume(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def await_state(pid: int, letter: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while state(pid) != letter:
        assert time.monotonic() < end, f"process {pid} is {state(pid)}, not {letter}"
        time.sleep(0.02)


def _processes() -> Iterator[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
