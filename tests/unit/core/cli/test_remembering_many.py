from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from core.cli.main import app
from core.errors import EmptyContext, InvalidRequest
from tests.unit.core.cli.gateway_double import GatewayDouble


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "notes"
    made.mkdir()
    for name in ("ferry", "piers", "walls"):
        (made / f"{name}.txt").write_text(f"The {name}.")
    return made


def remember(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["remember", *map(str, arguments)])


def test_a_folder_goes_in_one_request_and_is_not_waited_for(gateway: GatewayDouble, folder: Path) -> None:
    result = remember(folder, "--collection", "places", "--meta", "source=web")
    assert result.exit_code == 0, result.output
    ((method, path, body),) = gateway.requests
    assert (method, path) == ("POST", "/v1/memories/batch")
    assert [one["title"] for one in body["memories"]] == ["ferry", "piers", "walls"]
    assert all((one["collection"], one["metadata"]) == ("places", {"source": "web"}) for one in body["memories"])
    assert result.stdout.splitlines() == ["3 taken in, 0 known already, 0 refused"]
    assert "  3 so far; of the last 3: 3 taken in" in result.stderr


def test_a_second_call_makes_nothing_twice(gateway: GatewayDouble, folder: Path) -> None:
    remember(folder)
    (folder / "new.txt").write_text("A new one.")
    again = remember(folder)
    assert (again.exit_code, again.stdout.strip()) == (0, "1 taken in, 3 known already, 0 refused")
    assert len(gateway.memories) == 4
    assert remember(folder, "--idempotency-key", "anew").exit_code == 0
    assert len(gateway.memories) == 8


def test_what_is_refused_is_told_with_its_file_and_ends_with_one(gateway: GatewayDouble, folder: Path) -> None:
    gateway.refusals["piers"] = "The context is [much] too long; split it."
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    result = remember(folder)
    assert result.exit_code == 1
    assert f"{folder / 'piers.txt'}: The context is [much] too long; split it." in result.stderr.splitlines()
    assert f"{folder / 'photo.jpg'}: The text is not valid UTF-8" in result.stderr
    assert result.stdout.strip() == "2 taken in, 0 known already, 2 refused"
    told = json.loads(remember(folder, "--json").stdout)
    assert [(Path(one["place"]).name, one["status"]) for one in told] == [
        ("ferry.txt", "replayed"),
        ("photo.jpg", "refused"),
        ("piers.txt", "refused"),
        ("walls.txt", "replayed"),
    ]
    assert (told[0]["memory"]["id"], told[1]["error"]["code"], told[2]["memory"]) == ("mem_0", "not_utf8", None)


@pytest.mark.parametrize("status", ["failed", "deleted"])
def test_a_memory_that_is_no_more_is_not_told_as_known(gateway: GatewayDouble, folder: Path, status: str) -> None:
    remember(folder)
    gateway.kept = status
    again = remember(folder)
    assert (again.exit_code, again.stdout.strip()) == (1, "0 taken in, 0 known already, 3 refused")
    assert "(mem_0); to have it made anew, give it another --idempotency-key." in again.stderr


def test_many_are_waited_for_where_that_is_asked_for(gateway: GatewayDouble, folder: Path) -> None:
    assert "ferry.txt: succeeded" in remember(folder, "--wait").stderr
    gateway.steps = ({"status": "failed", "reason": "poison", "error": {"code": "x", "message": "It broke."}},)
    failed = remember(folder, "--wait", "--idempotency-key", "anew")
    assert failed.exit_code == 1
    assert f"{folder / 'walls.txt'}: It broke." in failed.stderr.splitlines()


def test_what_is_for_one_memory_alone_and_an_empty_folder_are_refused(gateway: GatewayDouble, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert isinstance(remember(tmp_path / "empty").exception, EmptyContext)
    for option in ("--title", "--update"):
        assert isinstance(remember(tmp_path / "empty", option, "mem_0").exception, InvalidRequest)
    assert gateway.requests == []
