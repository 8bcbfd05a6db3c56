from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from core.cli import demo, progress
from core.cli.demo_plan import DemoPlan, examples_dir, read_plan
from core.cli.demo_report import is_leak
from core.cli.main import app
from core.cli.stack import Plan
from core.errors import SetupError
from core.evaluation.scoring import is_right, normalise
from tests.unit.core.cli.gateway_double import GatewayDouble


class _Children:
    def check(self) -> None:
        return


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[GatewayDouble]:
    """The demo's own stack, replaced by a double whose memories answer everything right and nothing foreign."""
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(demo, "prepare_base", lambda settings, out: settings.base_dir.mkdir(parents=True))
    monkeypatch.setenv("LATENTBANK_DATA_DIR", str(tmp_path / "data"))
    with GatewayDouble() as double:
        _teach(double, read_plan(examples_dir()))

        @contextmanager
        def standing_in(_plan: Plan, _progress: object) -> Iterator[_Children]:
            yield _Children()

        def plan_stack(_settings: object, data_dir: Path, _overrides: object) -> Plan:
            return Plan(data_dir, double.url, double.admin_key, (), {})

        monkeypatch.setattr(demo, "running_stack", standing_in)
        monkeypatch.setattr(demo, "plan_stack", plan_stack)
        yield double


def _teach(double: GatewayDouble, plan: DemoPlan) -> None:
    """The owner's first memory serves each of its questions; the double has no banks, so it serves strangers too."""
    for question in plan.questions:
        if question.kind == "memory":
            owner = next(i for i, memory in enumerate(plan.memories) if memory.tenant == question.tenant)
            served = {"served_by": f"mem_{owner}", "score": 0.9}
            double.answers[f"{question.text}|auto"] = {"text": f"It is {question.expected[0]}.", "memory": served}
            double.answers[f"{question.text}|off"] = {"text": "I do not know.", "memory": {"served_by": None}}


def _without_foreign(tmp_path: Path) -> Path:
    """The examples without foreign questions, which the double would answer like a leaking gateway."""
    directory = tmp_path / "examples"
    directory.mkdir()
    for file in examples_dir().iterdir():
        text = file.read_text()
        (directory / file.name).write_text(text.replace(', "foreign": true', ""))
    return directory


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["demo", *arguments])


def test_the_results_have_the_promised_fields(gateway: GatewayDouble, tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.json"
    result = run("--json", str(path), "--examples", str(_without_foreign(tmp_path)), "--install-seconds", "12.5")
    assert result.exit_code == 0, result.output
    written = json.loads(path.read_text())
    assert list(written) == [
        "install_seconds",
        "run_seconds",
        "memories",
        "questions",
        "right",
        "asked",
        "leaks",
        "abstained",
    ]
    assert written["install_seconds"] == 12.5
    assert written["right"] == written["asked"] == 14
    assert (written["leaks"], written["abstained"]) == (0, 5)
    assert [list(memory) for memory in written["memories"]] == [["id", "title", "tenant", "seconds", "bytes"]] * 3
    assert written["memories"][0]["seconds"] == 42
    fields = ["tenant", "q", "expected", "answer", "base_answer", "right", "served_by", "score", "kind"]
    assert all(list(question) == fields for question in written["questions"])


def test_a_memory_of_another_tenant_that_serves_is_a_leak(gateway: GatewayDouble, tmp_path: Path) -> None:
    result = run("--json", str(tmp_path / "results.json"))
    assert result.exit_code == 1
    written = json.loads((tmp_path / "results.json").read_text())
    foreign = [question for question in written["questions"] if question["kind"] == "foreign"]
    assert written["leaks"] == len(foreign) == 5
    assert "a tenant saw another's memory" in result.output


def test_a_readable_id_of_another_tenant_is_a_leak(gateway: GatewayDouble, tmp_path: Path) -> None:
    def answering(method: str, path: str, tenant: str, body: Any, query: Any) -> tuple[int, Any]:
        if path.startswith("/v1/memories/"):
            return 200, {"status": "ready", "bytes": 1}
        return ask(method, path, tenant, body, query)

    ask, gateway._of_tenant = gateway._of_tenant, answering  # type: ignore[method-assign]
    result = run("--json", str(tmp_path / "results.json"), "--examples", str(_without_foreign(tmp_path)))
    assert result.exit_code == 1
    assert json.loads((tmp_path / "results.json").read_text())["leaks"] == 3


def test_a_failed_memory_fails_the_demo_and_still_writes_results(gateway: GatewayDouble, tmp_path: Path) -> None:
    gateway.steps = ({"status": "failed", "progress": 0.2, "error": {"code": "x", "message": "It broke."}},)
    result = run("--json", str(tmp_path / "results.json"))
    assert result.exit_code == 1
    assert "It broke." in result.output
    assert json.loads((tmp_path / "results.json").read_text())["questions"] == []


def test_fewer_than_two_thirds_right_fails_the_demo(gateway: GatewayDouble, tmp_path: Path) -> None:
    wrong = [key for key in gateway.answers if key.endswith("|auto")][:5]
    for key in wrong:
        gateway.answers[key] = {"text": "Something else.", "memory": {"served_by": None}}
    result = run("--examples", str(_without_foreign(tmp_path)))
    assert result.exit_code == 1
    assert "only 9 of 14" in result.output


def test_the_demos_directory_is_gone_and_the_base_stays(gateway: GatewayDouble, tmp_path: Path) -> None:
    seen: list[Path] = []
    perform = demo._perform

    def looking(settings: Any, plan: Any, data_dir: Path, run: Any, out: Any) -> None:
        seen.append(data_dir)
        assert (data_dir / "bases").resolve() == tmp_path / "data" / "bases"
        perform(settings, plan, data_dir, run, out)

    demo._perform = looking
    try:
        run("--examples", str(_without_foreign(tmp_path)))
    finally:
        demo._perform = perform
    assert not seen[0].exists()
    assert (tmp_path / "data" / "bases").is_dir()


def test_the_examples_are_three_short_contexts_of_different_kinds_for_two_tenants() -> None:
    plan = read_plan(examples_dir())
    assert len(set(plan.tenants)) == 2
    assert {memory.tenant for memory in plan.memories} == set(plan.tenants)
    assert sorted("messages" in memory.fields for memory in plan.memories) == [False, False, True]
    counts = {kind: sum(q.kind == kind for q in plan.questions) for kind in ("memory", "foreign", "everyday")}
    assert counts == {"memory": 14, "foreign": 5, "everyday": 5}


def test_every_accepted_answer_stands_in_its_context() -> None:
    directory = examples_dir()
    for entry in json.loads((directory / "demo.json").read_text())["memories"]:
        context = (directory / entry["file"]).read_text()
        for question in entry["questions"]:
            assert is_right(context, question["accepted"]), question


def test_a_plan_that_does_not_fit_together_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text('{"tenants": ["a"], "memories": [{"file": "missing.txt"}]}')
    with pytest.raises(SetupError, match="can't be used"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("The founder was Edda Marlow!", ["Edda Marlow"], True),
        ("It holds 1.7 litres.", ["1.7 liters", "1.7"], True),
        ("It was built in 1961.", ["61"], False),
        ("A dog, the Biscuit", ["dog biscuit"], True),
        ("", ["x"], False),
        ("anything", [""], False),
    ],
)
def test_an_answer_is_right_where_an_accepted_one_occurs_in_it(answer: str, expected: list[str], right: bool) -> None:
    assert is_right(answer, expected) is right


def test_text_is_normalised_as_squad_does() -> None:
    assert normalise(" The  quick, brown-fox's an Answer. ") == "quick brownfoxs answer"


@pytest.mark.parametrize(
    ("kind", "served_by", "answer", "base", "leak"),
    [
        ("foreign", "mem_theirs", "nothing", "nothing", True),
        ("everyday", "mem_theirs", "nothing", "nothing", True),
        ("foreign", "mem_own", "nothing", "nothing", False),
        ("foreign", None, "It is Biscuit.", "No idea.", True),
        ("foreign", None, "It is Biscuit.", "Biscuit, surely.", False),
        ("foreign", None, "No idea.", "No idea.", False),
        ("memory", "mem_own", "It is Biscuit.", "No idea.", False),
    ],
)
def test_a_leak_is_a_foreign_memory_or_a_foreign_fact(
    kind: Any, served_by: str | None, answer: str, base: str, leak: bool
) -> None:
    own: Sequence[str] = ["mem_own"]
    assert is_leak(kind, served_by, own, answer, base, ["Biscuit"]) is leak
