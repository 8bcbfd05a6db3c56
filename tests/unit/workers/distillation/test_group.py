"""The trainer's group, with a fake trainer: real processes, real signals, no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from core.errors import TrainerLost
from tests.fixtures.fake_trainer import fake_command
from workers.distillation.group import Interrupted, Interruption, TrainerGroup
from workers.distillation.runs import MemoryRequest, MemoryResult, Progress, RunRequest

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


def asking(*texts: str) -> Callable[[Path], RunRequest]:
    """A run of the memories `mem_0`, `mem_1` and so on."""

    def prepare(directory: Path) -> RunRequest:
        return RunRequest(directory.name, "base", "bases", "encoder", {}, tuple(memories(directory)))

    def memories(directory: Path) -> Iterator[MemoryRequest]:
        for place, text in enumerate(texts):
            context = directory / f"mem_{place}.json"
            context.write_text(json.dumps({"kind": "text", "title": "A", "text": text}))
            export = str(directory / f"mem_{place}")
            yield MemoryRequest(f"mem_{place}", "tenant", "A", "text", str(context), export)

    return prepare


class Follower:
    """Writes down what it hears; interrupts, as `why` says, from the first line of progress on."""

    def __init__(self, why: Interruption | None = None, leave_out: Sequence[str] = ()) -> None:
        self.lines: list[Progress] = []
        self.outcomes: list[MemoryResult] = []
        self._why = why
        self._leave_out = leave_out

    def on_news(self, lines: Sequence[Progress], ended: Sequence[MemoryResult]) -> None:
        for line in lines:
            self.on_progress(line)
        for result in ended:
            self.on_outcome(result)

    def on_progress(self, line: Progress) -> None:
        self.lines.append(line)

    def on_outcome(self, result: MemoryResult) -> None:
        self.outcomes.append(result)

    def left_out(self) -> Sequence[str]:
        return self._leave_out

    def interruption(self) -> Interruption | None:
        return self._why if self.lines else None


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


def test_a_group_stays_warm_between_runs(make_group: MakeGroup) -> None:
    group, follower = make_group(), Follower()
    for _ in range(2):
        group.run(asking("refuse"), follower)
    errors = [(outcome.error_code, outcome.error) for outcome in follower.outcomes]
    assert errors == [("training_failed", "This text can't be learnt.")] * 2
    assert [line.phase for line in follower.lines] == ["self_study", "self_study"]
    assert follower.lines[0].data["pid"] == follower.lines[1].data["pid"]


def test_each_memory_is_heard_of_by_itself_and_once(make_group: MakeGroup) -> None:
    follower = Follower()
    make_group().run(asking("refuse", "break", "refuse"), follower)
    assert [line.memory_id for line in follower.lines] == ["mem_0", "mem_1", "mem_2"]
    assert sorted(outcome.memory_id for outcome in follower.outcomes) == ["mem_0", "mem_1", "mem_2"]


def test_a_run_goes_on_without_a_memory_that_is_left_out(make_group: MakeGroup) -> None:
    follower = Follower(leave_out=["mem_0"])
    make_group().run(asking("hang", "refuse"), follower)
    assert {o.memory_id: o.error_code for o in follower.outcomes} == {"mem_0": "cancelled", "mem_1": "training_failed"}


def test_what_ended_before_the_group_died_is_heard_of(make_group: MakeGroup) -> None:
    follower, group = Follower(), make_group()
    with pytest.raises(TrainerLost):
        group.run(asking("refuse", "die"), follower)
    assert [outcome.memory_id for outcome in follower.outcomes] == ["mem_0"]


def test_a_runs_directory_is_there_for_its_outcomes_and_gone_after_it(make_group: MakeGroup, tmp_path: Path) -> None:
    class Looking(Follower):
        def on_outcome(self, result: MemoryResult) -> None:
            super().on_outcome(result)
            assert list((tmp_path / "scratch").glob("*/inbox/*"))

    follower = Looking()
    make_group().run(asking("refuse"), follower)
    assert follower.outcomes
    assert not list((tmp_path / "scratch").glob("*/inbox/*"))


def test_a_dead_group_is_an_error_with_its_last_words_and_is_replaced(make_group: MakeGroup) -> None:
    group, follower = make_group(), Follower()
    with pytest.raises(TrainerLost, match=r"died \(exit code 3\)") as lost:
        group.run(asking("die"), follower)
    assert "the last words of the trainer" in lost.value.last_words
    group.run(asking("refuse"), follower)
    assert follower.outcomes


def test_a_cancelled_run_that_stops_by_itself_keeps_the_group(make_group: MakeGroup) -> None:
    group = make_group()
    with pytest.raises(Interrupted):
        group.run(asking("hang"), Follower(Interruption.CANCELLED))
    assert group.alive


def test_a_cancelled_run_that_does_not_stop_is_killed_with_all_its_processes(make_group: MakeGroup, pids: Path) -> None:
    group = make_group(cancel_grace_seconds=0.2)
    with pytest.raises(Interrupted):
        group.run(asking("deaf"), Follower(Interruption.CANCELLED))
    assert not group.alive
    assert len(process_ids(pids)) == 3
    assert all(gone(pid) for pid in process_ids(pids))


@pytest.mark.parametrize("why", [Interruption.LEASE_LOST, Interruption.STOPPING])
def test_a_lost_lease_and_a_shutdown_end_the_group_at_once(
    make_group: MakeGroup, pids: Path, why: Interruption
) -> None:
    with pytest.raises(Interrupted):
        make_group().run(asking("hang"), Follower(why))
    assert all(gone(pid) for pid in process_ids(pids))


def test_a_silent_group_is_lost(make_group: MakeGroup) -> None:
    group = make_group(silence_seconds=0.5)
    with pytest.raises(TrainerLost, match="no sign of life"):
        group.run(asking("deaf"), Follower())
    assert not group.alive


def test_an_error_while_reporting_ends_the_group(make_group: MakeGroup) -> None:
    class Failing(Follower):
        def on_progress(self, line: Progress) -> None:
            raise RuntimeError("no more of this")

    group = make_group()
    with pytest.raises(RuntimeError):
        group.run(asking("hang"), Failing())
    assert not group.alive


def test_a_killed_guard_leaves_no_process_of_its_session(make_group: MakeGroup, pids: Path) -> None:
    group = make_group()
    group.start()
    assert eventually(lambda: pids.exists() and len(process_ids(pids)) == 3)
    assert group.pid is not None
    os.kill(group.pid, signal.SIGKILL)
    trainer, child, stray = process_ids(pids)
    try:
        assert eventually(lambda: gone(trainer) and gone(child)), "although nobody asks for a run"
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
