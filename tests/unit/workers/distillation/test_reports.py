"""Progress lines become events: forward only, and rate-limited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workers.distillation.reports import RUN_SHARE, Reports
from workers.distillation.runs import OutcomeReader, Progress, ProgressReader, read_result


class Events:
    def __init__(self) -> None:
        self.now = 0.0
        self.passed_on: list[tuple[str, float, str]] = []
        self.reports = Reports(every_seconds=2.0, clock=lambda: self.now)

    def tell(self, line: Progress) -> None:
        if (due := self.reports.due(line)) is not None:
            self.passed_on.append((due.phase.value, due.progress, due.message))


def test_a_new_phase_is_passed_on_at_once_and_the_rest_is_rate_limited() -> None:
    events = Events()
    for phase, message in (("self_study", "a"), ("self_study", "b"), ("training", "c"), ("training", "d")):
        events.tell(Progress("mem_a", phase, 0.5, message))
    events.now = 2.0
    events.tell(Progress("mem_a", "training", 1.0, "e"))
    assert events.passed_on == [
        ("self_study", 0.5 * RUN_SHARE, "a"),
        ("training", 0.5 * RUN_SHARE, "c"),
        ("training", RUN_SHARE, "e"),
    ]


@pytest.mark.parametrize("phase", ["self_study", "exporting", "publishing"])
def test_a_phase_that_was_left_or_is_none_of_a_run_counts_as_the_present_one(phase: str) -> None:
    events = Events()
    events.tell(Progress("mem_a", "calibrating", 0.5, "a"))
    events.now = 5.0
    events.tell(Progress("mem_a", phase, 0.6, "b"))
    assert [passed_on[0] for passed_on in events.passed_on] == ["calibrating", "calibrating"]


def test_a_line_counts_once_it_is_whole_and_a_broken_one_never(tmp_path: Path) -> None:
    reader, path = ProgressReader(tmp_path), tmp_path / "progress.jsonl"
    assert list(reader.read()) == []
    line = json.dumps({"phase": "training", "progress": 7, "message": "m", "data": {"memory_id": "mem_a", "step": 3}})
    path.write_text(f"not json\n{line[:10]}")
    assert list(reader.read()) == []
    with path.open("a") as file:
        file.write(f"{line[10:]}\n")
    assert list(reader.read()) == [Progress("mem_a", "training", 1.0, "m", {"step": 3})]
    assert list(reader.read()) == []


def test_half_a_result_is_none(tmp_path: Path) -> None:
    text = json.dumps({"ok": True, "memories": [{"memory_id": "mem_a", "directory": "d", "error": None}]})
    (tmp_path / "result.json").write_text(text[:-3])
    assert read_result(tmp_path) is None
    (tmp_path / "result.json").write_text(text)
    result = read_result(tmp_path)
    assert result is not None
    assert result.ok
    assert [memory.memory_id for memory in result.memories] == ["mem_a"]


def test_an_outcome_is_read_once_also_where_the_result_names_it_again(tmp_path: Path) -> None:
    reader = OutcomeReader(tmp_path)
    assert list(reader.read(None)) == []
    (tmp_path / "outcomes").mkdir()
    first, second = ({"memory_id": name, "directory": "d", "error": None} for name in ("mem_a", "mem_b"))
    (tmp_path / "outcomes" / "mem_a.json").write_text(json.dumps(first))
    (tmp_path / "outcomes" / "mem_b.json.partial").write_text("{")
    assert [memory.memory_id for memory in reader.read(None)] == ["mem_a"]
    (tmp_path / "result.json").write_text(json.dumps({"ok": True, "memories": [first, second]}))
    result = read_result(tmp_path)
    assert [memory.memory_id for memory in reader.read(result)] == ["mem_b"]
    assert list(reader.read(result)) == []
