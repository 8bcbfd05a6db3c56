"""The trainer's group, with a fake trainer: real processes, real signals, no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import TrainerLost
from tests.fixtures.fake_trainer import fake_command
from workers.distillation.group import Interrupted, Interruption, TrainerGroup
from workers.distillation.runs import MemoryRequest, Progress, RunRequest

MakeGroup = Callable[..., TrainerGroup]


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    return tmp_path / "pids"


@pytest.fixture
def make_group(tmp_path: Path, pids: Path) -> Iterator[MakeGroup]:
    made: list[TrainerGroup] = []

    def make(silence_seconds: float = 30.0, cancel_grace_seconds: float = 10.0) -> TrainerGroup:
        group = TrainerGroup(
            lambda inbox: fake_command(inbox, pids),
            dict(os.environ),
            tmp_path / "scratch",
            silence_seconds=silence_seconds,
            cancel_grace_seconds=cancel_grace_seconds,
            poll_seconds=0.02,
        )
        made.append(group)
        return group

    yield make
    for group in made:
        group.kill()


def asking(text: str) -> Callable[[Path], RunRequest]:
    def prepare(directory: Path) -> RunRequest:
        context = directory / "mem_a.json"
        context.write_text(json.dumps({"kind": "text", "title": "A", "text": text}))
        memory = MemoryRequest("mem_a", "A", "text", str(context), str(directory / "mem_a"))
        return RunRequest(directory.name, "base", "bases", "encoder", {}, (memory,))

    return prepare


def ignore(_: Progress) -> None:
    return


def never() -> Interruption | None:
    return None


def process_ids(pids: Path) -> list[int]:
    return [int(line) for line in pids.read_text().split()]


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


class Once:
    """An interruption that comes with the first line of progress."""

    def __init__(self, why: Interruption) -> None:
        self._why = why
        self.heard = False

    def line(self, _: Progress) -> None:
        self.heard = True

    def __call__(self) -> Interruption | None:
        return self._why if self.heard else None


def test_a_group_stays_warm_between_runs(make_group: MakeGroup) -> None:
    group = make_group()
    lines: list[Progress] = []
    for _ in range(2):
        with group.run(asking("refuse"), lines.append, never) as result:
            memory = result.of("mem_a")
            assert memory is not None
            assert (memory.error_code, memory.error) == ("training_failed", "This text can't be learnt.")
    assert [line.phase for line in lines] == ["self_study", "self_study"]
    assert lines[0].data["pid"] == lines[1].data["pid"]


def test_a_runs_directory_is_gone_after_it(make_group: MakeGroup, tmp_path: Path) -> None:
    group = make_group()
    with group.run(asking("refuse"), ignore, never):
        assert list((tmp_path / "scratch").glob("*/inbox/*"))
    assert not list((tmp_path / "scratch").glob("*/inbox/*"))


def test_a_dead_group_is_an_error_with_its_last_words_and_is_replaced(make_group: MakeGroup) -> None:
    group = make_group()
    with pytest.raises(TrainerLost, match=r"died \(exit code 3\)") as lost, group.run(asking("die"), ignore, never):
        pass
    assert "the last words of the trainer" in lost.value.last_words
    with group.run(asking("refuse"), ignore, never) as result:
        assert result.of("mem_a") is not None


def test_a_cancelled_run_that_stops_by_itself_keeps_the_group(make_group: MakeGroup) -> None:
    group = make_group()
    cancelled = Once(Interruption.CANCELLED)
    with pytest.raises(Interrupted), group.run(asking("hang"), cancelled.line, cancelled):
        pass
    assert group.alive


def test_a_cancelled_run_that_does_not_stop_is_killed_with_all_its_processes(make_group: MakeGroup, pids: Path) -> None:
    group = make_group(cancel_grace_seconds=0.2)
    cancelled = Once(Interruption.CANCELLED)
    with pytest.raises(Interrupted), group.run(asking("deaf"), cancelled.line, cancelled):
        pass
    assert not group.alive
    assert len(process_ids(pids)) == 3
    assert all(gone(pid) for pid in process_ids(pids))


@pytest.mark.parametrize("why", [Interruption.LEASE_LOST, Interruption.STOPPING])
def test_a_lost_lease_and_a_shutdown_end_the_group_at_once(
    make_group: MakeGroup, pids: Path, why: Interruption
) -> None:
    group = make_group()
    interrupted = Once(why)
    with pytest.raises(Interrupted), group.run(asking("hang"), interrupted.line, interrupted):
        pass
    assert all(gone(pid) for pid in process_ids(pids))


def test_a_silent_group_is_lost(make_group: MakeGroup) -> None:
    group = make_group(silence_seconds=0.5)
    with pytest.raises(TrainerLost, match="no sign of life"), group.run(asking("deaf"), ignore, never):
        pass
    assert not group.alive


def test_an_error_while_reporting_ends_the_group(make_group: MakeGroup) -> None:
    def fail(_: Progress) -> None:
        raise RuntimeError("no more of this")

    group = make_group()
    with pytest.raises(RuntimeError), group.run(asking("hang"), fail, never):
        pass
    assert not group.alive


def test_a_killed_guard_leaves_no_process_of_its_session(make_group: MakeGroup, pids: Path) -> None:
    group = make_group()
    group.start()
    assert eventually(lambda: pids.exists() and len(process_ids(pids)) == 3)
    assert group.pid is not None
    os.kill(group.pid, signal.SIGKILL)
    assert eventually(lambda: not group.alive)
    group.kill()
    trainer, child, stray = process_ids(pids)
    try:
        assert eventually(lambda: gone(trainer) and gone(child))
    finally:
        os.kill(stray, signal.SIGKILL)


def test_a_killed_owner_leaves_no_process_and_no_text(tmp_path: Path, pids: Path) -> None:
    owner = f"""
import os, sys, time
from pathlib import Path
from tests.fixtures.fake_trainer import fake_command
from workers.distillation.group import TrainerGroup
group = TrainerGroup(lambda inbox: fake_command(inbox, Path({str(pids)!r})), dict(os.environ),
                     Path({str(tmp_path / "scratch")!r}), silence_seconds=60, cancel_grace_seconds=1)
group.start()
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", owner])
    try:
        assert eventually(lambda: pids.exists() and len(process_ids(pids)) == 3)
    finally:
        process.kill()
        process.wait()
    assert eventually(lambda: all(gone(pid) for pid in process_ids(pids)))
    assert eventually(lambda: not list((tmp_path / "scratch").iterdir()))
