"""The trainer's process group: DeepSpeed's launcher and its ranks, in a session of their own, warm between runs.

The group lives under a guard (guard.py) that holds a pipe of ours: closing the pipe, or our death, ends every process
of the group and removes its directory, the inbox with the texts of contexts among it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from pathlib import Path
from threading import Lock, Thread
from typing import Protocol

from core.errors import TrainerLost
from core.ids import new_id
from core.logs import get_logger
from workers.distillation.runs import (
    MemoryResult,
    OutcomeReader,
    Progress,
    ProgressReader,
    RunRequest,
    RunResult,
    ask_to_cancel,
    ask_to_leave_out,
    place,
    read_result,
)

_log = get_logger(__name__)
_TAIL_BYTES = 4000
_LOG_BYTES = 4 * 1024 * 1024
_GUARD_SECONDS = 15.0
_SHORTEST_POLL_SECONDS = 0.005
"""Between two looks where something was just heard; then twice as long each time."""


class Interruption(StrEnum):
    """Why a run has to end early."""

    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"
    STOPPING = "stopping"


class Interrupted(Exception):
    """The run was ended early, as `why` says."""

    def __init__(self, why: Interruption) -> None:
        super().__init__(str(why))
        self.why = why


class Follower(Protocol):
    """Who asked for a run and hears how it goes, always from the thread that runs it."""

    def on_news(self, lines: Sequence[Progress], ended: Sequence[MemoryResult]) -> None:
        """What one look found: progress, and then memories that have ended.

        Their files are there until this returns, also where the group has died since.
        """

    def left_out(self) -> Collection[str]:
        """The memories that the run is to go on without."""

    def interruption(self) -> Interruption | None:
        """Why the run as a whole is to end early, if it is."""


class TrainerGroup:
    """Starts the group when a run needs it, hands runs over, and ends it as a whole. `kill` may come from any thread.

    `command(inbox)` is what to start; `silence_seconds` bounds the time without a sign of life during a run, start-up
    included; `cancel_grace_seconds` is how long a cancelled run may take to stop by itself and so keep the group warm.
    `end_strays` ends what outlived a guard that was itself killed: processes that had left its session.
    """

    def __init__(
        self,
        command: Callable[[Path], list[str]],
        environment: dict[str, str],
        scratch: Path,
        *,
        silence_seconds: float,
        cancel_grace_seconds: float,
        poll_seconds: float = 0.1,
        end_strays: Callable[[], None] = lambda: None,
    ) -> None:
        self._command = command
        self._environment = environment
        self._scratch = scratch
        self._silence_seconds = silence_seconds
        self._cancel_grace_seconds = cancel_grace_seconds
        self._poll_seconds = poll_seconds
        self._end_strays = end_strays
        self._guard: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None
        self._changing = Lock()

    @property
    def alive(self) -> bool:
        guard = self._guard
        return guard is not None and guard.poll() is None

    @property
    def pid(self) -> int | None:
        """The id of the guard, which is also the id of the session and of the process group."""
        return self._guard.pid if self._guard is not None else None

    def start(self) -> Path:
        """The living group's inbox; a group is started first where there is none."""
        with self._changing:
            if not self.alive or self._directory is None:
                self._end()
                self._directory = self._spawn()
            return self._directory / "inbox"

    def run(self, prepare: Callable[[Path], RunRequest], follower: Follower) -> RunResult:
        """Runs what `prepare` asks for, given a fresh directory to put files in, which ends with the run.

        Raises `Interrupted` when the follower says so, and `TrainerLost` when the group does not live to answer. Any
        other exception on the way, of the follower too, ends the group: its run is nobody's any more.
        """
        run_id = new_id("run")
        directory = self.start() / run_id
        try:
            directory.mkdir()
            place(directory, prepare(directory))
            return self._wait(directory, follower)
        except BaseException as ended:
            if not (isinstance(ended, Interrupted) and ended.why is Interruption.CANCELLED):
                self.kill()
            raise
        finally:
            # First of all: a request without a result is one that the trainer would begin.
            (directory / "request.json").unlink(missing_ok=True)
            shutil.rmtree(directory, ignore_errors=True)

    def kill(self) -> None:
        """Ends every process of the group, now. Does nothing where there is none."""
        with self._changing:
            self._end()

    def last_words(self) -> str:
        """The end of what the group wrote to its standard error, or nothing where there is no group."""
        log = self._log_path()
        if log is None:
            return ""
        try:
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
                return file.read().decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def _spawn(self) -> Path:
        directory = self._scratch / new_id("run")
        inbox = directory / "inbox"
        inbox.mkdir(parents=True)
        with (directory / "trainer.log").open("ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "workers.distillation.guard", str(directory), *self._command(inbox)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        _log.info("trainer group started", pid=self._guard.pid)
        Thread(target=self._watch, args=(self._guard,), name="guard", daemon=True).start()
        return directory

    def _watch(self, guard: subprocess.Popen[bytes]) -> None:
        """A guard that is killed while nobody asks for a run leaves nothing behind until somebody does."""
        guard.wait()
        with self._changing:
            if self._guard is guard:
                self._end_rest(guard)

    def _end_rest(self, guard: subprocess.Popen[bytes]) -> None:
        """Also where the guard itself was killed: its command's processes are still in its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guard.pid, signal.SIGKILL)
        guard.wait()
        self._end_strays()

    def _end(self) -> None:
        guard, self._guard = self._guard, None
        directory, self._directory = self._directory, None
        if guard is not None:
            assert guard.stdin is not None
            guard.stdin.close()
            try:
                guard.wait(_GUARD_SECONDS)
            except subprocess.TimeoutExpired:
                _log.warning("the guard did not end its group; killing the session", pid=guard.pid)
            self._end_rest(guard)
            _log.info("trainer group ended", pid=guard.pid, exit_code=guard.returncode)
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)

    def _wait(self, directory: Path, follower: Follower) -> RunResult:
        progress, outcomes = ProgressReader(directory), OutcomeReader(directory)
        left_out: set[str] = set()
        self._shorten_log()
        heard, pause = time.monotonic(), _SHORTEST_POLL_SECONDS
        while True:
            alive = self.alive
            result = read_result(directory)
            ended = list(outcomes.read(result))  # first, so that no line is read after the outcome that it precedes
            lines = list(progress.read())
            if lines or ended:
                follower.on_news(lines, ended)
                heard, pause = time.monotonic(), _SHORTEST_POLL_SECONDS
            for memory_id in set(follower.left_out()) - left_out:
                ask_to_leave_out(directory, memory_id)
                left_out.add(memory_id)
            if (why := follower.interruption()) is not None:
                raise self._interrupted(why, directory)
            if result is not None:
                return result
            if not alive:
                raise self._lost("The training processes died")
            if time.monotonic() - heard > self._silence_seconds:
                raise self._lost(f"The training processes gave no sign of life for {self._silence_seconds:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, self._poll_seconds)

    def _interrupted(self, why: Interruption, directory: Path) -> Interrupted:
        if why is Interruption.CANCELLED and not self._stopped_by_itself(directory):
            self.kill()
        return Interrupted(why)

    def _stopped_by_itself(self, directory: Path) -> bool:
        ask_to_cancel(directory)
        give_up = time.monotonic() + self._cancel_grace_seconds
        while self.alive and time.monotonic() < give_up:
            if read_result(directory) is not None:
                return True
            time.sleep(self._poll_seconds)
        return False

    def _lost(self, what: str) -> TrainerLost:
        last_words = self.last_words()
        guard = self._guard
        code = guard.poll() if guard is not None else None
        return TrainerLost(f"{what}{'' if code is None else f' (exit code {code})'}.", last_words=last_words)

    def _shorten_log(self) -> None:
        # The group appends, so a shortened file simply goes on from its new end.
        log = self._log_path()
        with contextlib.suppress(FileNotFoundError):
            if log is not None and log.stat().st_size > _LOG_BYTES:
                os.truncate(log, 0)

    def _log_path(self) -> Path | None:
        return None if self._directory is None else self._directory / "trainer.log"
