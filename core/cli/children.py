"""Processes that this one answers for: a session and a log file each, and a clean end with all they began."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import LatentBankError

_MARK = "LATENTBANK_STACK_MARK"
_PR_SET_PDEATHSIG = 1
_TAIL_LINES = 25
_POLL_SECONDS = 0.05
_KILL_SECONDS = 5.0


class ChildDied(LatentBankError):
    """A process of the stack ended by itself."""

    code = "process_died"

    def __init__(self, name: str, exit_code: int, log: Path) -> None:
        self.name = name
        self.log_tail = tail(log)
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
        super().__init__(f"The {name} {how}. The end of its log, {log}:\n{self.log_tail or '(empty)'}")


@dataclass(slots=True)
class Child:
    """One process that runs."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]


@dataclass(slots=True)
class Children:
    """The processes of one stack. Everything they start carries their mark, so that nothing survives `stop`."""

    log_dir: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(12))
    running: list[Child] = field(default_factory=list)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Starts `command` in a session of its own, its output in `<log_dir>/<name>.log`."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        log = self.log_dir / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(command),
                env={**environment, _MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
        child = Child(name, log, process)
        self.running.append(child)
        return child

    def check(self) -> None:
        """Raises `ChildDied` for the first process that is no longer there."""
        for child in self.running:
            exit_code = child.process.poll()
            if exit_code is not None:
                raise ChildDied(child.name, exit_code, child.log)

    def stop(self, grace_seconds: float = 20.0) -> list[str]:
        """Asks all to end, kills what has not after `grace_seconds`, and whatever they left behind.

        Returns the names of those that had to be killed.
        """
        for child in self.running:
            child.process.terminate()
        give_up = time.monotonic() + grace_seconds
        while any(child.process.poll() is None for child in self.running) and time.monotonic() < give_up:
            time.sleep(_POLL_SECONDS)
        killed = [child.name for child in self.running if child.process.poll() is None]
        _kill_all(self.mark)
        for child in self.running:
            child.process.wait()
        self.running.clear()
        return killed


def marked(mark: str) -> list[int]:
    """The ids of all processes that inherited `mark`, whoever their parent is by now."""
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def tail(log: Path, lines: int = _TAIL_LINES) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def free_port(wanted: int, host: str, taken: set[int]) -> int:
    """`wanted` where it is free on `host` and not in `taken`, else one that is; adds it to `taken`."""
    for port in (wanted, 0):
        if port in taken and port != 0:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
        if chosen not in taken:
            taken.add(chosen)
            return chosen
    raise OSError(f"no free port on {host}")


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux: a child is told to end when this process dies, of SIGKILL too."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: nothing may be allocated between fork and exec
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel


def _kill_all(mark: str) -> None:
    """Kills until nobody carries `mark`: who is killed may have started another a moment before."""
    give_up = time.monotonic() + _KILL_SECONDS
    while (pids := marked(mark)) and time.monotonic() < give_up:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(_POLL_SECONDS)
