from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from core.errors import InvalidRequest, Unavailable
from workers.distillation.trainer.loop import run
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.requests import Outcome, Reporter, RunRequest, parse_request, waiting

REQUEST = {
    "run_id": "run_a",
    "base_reference": "base",
    "base_dir": "bases",
    "encoder": "encoder",
    "recipe": {"steps": 3},
    "memories": [
        {"memory_id": name, "title": "T", "kind": "text", "context_path": "c.json", "directory": f"out/{name}"}
        for name in ("mem_a", "mem_b")
    ],
}


def _placed(inbox: Path, name: str) -> Path:
    directory = inbox / name
    directory.mkdir(parents=True)
    (directory / "request.json").write_text(json.dumps(REQUEST))
    return directory


def test_a_request_is_read_with_its_recipe() -> None:
    request = parse_request(json.dumps(REQUEST))
    assert request.recipe.steps == 3
    assert [memory.memory_id for memory in request.memories] == ["mem_a", "mem_b"]


@pytest.mark.parametrize("text", ["", "{}", '{"run_id": 1, "memories": [{}]}'])
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_request(text)


def test_a_run_waits_until_it_has_a_result(tmp_path: Path) -> None:
    directory = _placed(tmp_path, "run_a")
    assert waiting(tmp_path) == directory
    Reporter(directory).result([])
    assert waiting(tmp_path) is None


def test_an_error_of_the_run_ends_the_memories_that_have_not_ended_before(tmp_path: Path) -> None:
    directory = _placed(tmp_path, "run_a")

    def distil(request: RunRequest, reporter: Reporter, left_out: object) -> list[Outcome]:
        reporter.outcome(Outcome("mem_a", "out/mem_a"))
        raise Unavailable("no room")

    run(directory, Ranks(), distil)
    assert json.loads((directory / "outcomes" / "mem_a.json").read_text())["error"] is None
    result = json.loads((directory / "result.json").read_text())
    assert result["ok"] is False
    told = [(memory["memory_id"], memory["error"]) for memory in result["memories"]]
    # No one memory's fault, so not a code that would end its job for good.
    assert told == [("mem_b", {"code": "distillation_failed", "message": "no room"})]


def test_a_run_is_told_which_memories_to_go_on_without(tmp_path: Path) -> None:
    directory = _placed(tmp_path, "run_a")
    seen = []

    def distil(request: RunRequest, reporter: Reporter, left_out: Callable[[], Collection[str]]) -> list[Outcome]:
        seen.append(set(left_out()))
        (directory / "cancel.mem_b").touch()
        seen.append(set(left_out()))
        return []

    run(directory, Ranks(), distil)
    assert seen == [set(), {"mem_b"}]


def test_the_cancel_file_ends_a_run_at_its_next_check(tmp_path: Path) -> None:
    directory = _placed(tmp_path, "run_a")
    (directory / "cancel").touch()

    def distil(request: RunRequest, reporter: Reporter, left_out: Callable[[], Collection[str]]) -> list[Outcome]:
        left_out()
        raise AssertionError("not reached")

    run(directory, Ranks(), distil)
    result = json.loads((directory / "result.json").read_text())
    assert (result["ok"], result["cancelled"], result["memories"]) == (False, True, [])


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path, silent=True)
    reporter.progress("training", 0.5, "half")
    reporter.result([])
    assert list(tmp_path.iterdir()) == []
