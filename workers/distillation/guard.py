"""Stands between the supervisor and DeepSpeed's launcher, so that no process of a group outlives its owner.

`python -m workers.distillation.guard SCRATCH COMMAND…` runs COMMAND as its child and holds the owner's pipe on stdin.
When COMMAND ends, the guard kills every descendant, also those that left its session, and exits with COMMAND's code.
When the owner lets go of the pipe, by closing it or by dying of anything, SIGKILL included, the guard does the same to
COMMAND, and removes the directory SCRATCH too: nobody is left who would read it. It uses the standard library only,
and Linux's subreapers: a descendant whose parent dies becomes the guard's child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.2
_KILL_SECONDS = 10.0


class _ToldToStop(Exception):
    """A SIGTERM or SIGINT came."""


def main(arguments: list[str]) -> int:
    """Guards one command; returns its exit code, or -SIGKILL where the guard had to end it."""
    scratch, *command = arguments
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        code = _wait(child)
    except _ToldToStop:
        code = None
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        kill_descendants(os.getpid())
    if code is None:
        shutil.rmtree(scratch, ignore_errors=True)
        return -signal.SIGKILL
    return code


def _wait(child: subprocess.Popen[bytes]) -> int | None:
    """The child's exit code, or None as soon as the owner is gone."""
    while (code := child.poll()) is None:
        ready, _, _ = select.select([sys.stdin.fileno()], [], [], _POLL_SECONDS)
        if ready and not os.read(sys.stdin.fileno(), 1):
            return None
    return code


def adopt_orphans() -> None:
    """From now on a descendant whose parent dies becomes a child of the calling process."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants(root: int) -> None:
    """Kills and reaps until `root`, the calling process, has no descendants; gives up after some seconds."""
    give_up = time.monotonic() + _KILL_SECONDS
    while (pids := descendants(root)) and time.monotonic() < give_up:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        time.sleep(0.01)


def kill_strangers(supervisor: int) -> None:
    """Kills what the supervisor, the caller's parent, has below it in other sessions than its own, until there is none.

    Those are the processes of a group whose guard and owner died together, if the supervisor adopts orphans; the caller
    has begun nothing yet. Kills nothing where the parent is another one by now: whoever adopted the caller, perhaps the
    machine's first process, has more below it than a group.
    """
    give_up = time.monotonic() + _KILL_SECONDS
    while os.getppid() == supervisor and time.monotonic() < give_up:
        processes = _processes()
        below = ((pid, processes[pid]) for pid in _below(supervisor, processes))
        strangers = [pid for pid, one in below if not one.dead and one.session != os.getsid(0)]
        if not strangers:
            return
        for pid in strangers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def reap_strangers() -> None:
    """Lets go of the calling process's dead children of other sessions: adopted ones, for which nobody waits."""
    for pid, process in _processes().items():
        if process.dead and process.parent == os.getpid() and process.session != os.getsid(0):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def descendants(root: int) -> set[int]:
    """The ids of all processes below `root` in the process tree, without `root`."""
    return _below(root, _processes())


@dataclass(frozen=True, slots=True)
class _Process:
    """`dead` is what is not reaped yet."""

    parent: int
    session: int
    dead: bool


def _processes() -> dict[int, _Process]:
    """All of the machine, by their ids."""
    found: dict[int, _Process] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name in parentheses may hold anything; after its last ")" come state, parent, group and session.
                state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                found[int(entry.name)] = _Process(int(parent), int(session), state == "Z")
            except (OSError, ValueError):
                continue
    return found


def _below(root: int, processes: Mapping[int, _Process]) -> set[int]:
    found: set[int] = set()
    while more := {pid for pid, one in processes.items() if one.parent == root or one.parent in found} - found:
        found |= more
    return found


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _ToldToStop


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) & 0xFF)
