"""`latentbank remember` of a folder and of a JSONL file, through a real gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.integration.gateway.conftest import Gateway

GOOD = ("The ferry leaves at nine.", "The third pier is closed.", "The walls are old.")


@pytest.fixture(autouse=True)
def as_the_tenant(gateway: Gateway, tenant: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTBANK_GATEWAY_URL", gateway.url)
    monkeypatch.setenv("LATENTBANK_API_KEY", tenant.headers["Authorization"].removeprefix("Bearer "))


def remember(*arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the gateway's log goes to our standard output."""
    command = [sys.executable, "-m", "core.cli.main", "remember", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def titles(tenant: httpx.Client) -> list[str]:
    return sorted(one["title"] for one in tenant.get("/v1/memories").json()["data"])


def test_a_folder_is_taken_file_by_file_and_sent_again_makes_nothing_twice(
    gateway: Gateway, tenant: httpx.Client, tmp_path: Path
) -> None:
    for number, text in enumerate(GOOD):
        (tmp_path / f"note-{number}.txt").write_text(text)
    (tmp_path / "long.txt").write_text("word " * 300)
    first = remember(tmp_path, "--collection", "notes")
    left = gateway.left()

    assert (first.returncode, first.stdout.strip()) == (1, "3 taken in, 0 known already, 1 refused")
    assert f"{tmp_path / 'long.txt'}: The context has 300 tokens" in first.stderr
    assert titles(tenant) == ["note 0", "note 1", "note 2"]
    assert {one["collection"] for one in tenant.get("/v1/memories").json()["data"]} == {"notes"}

    (tmp_path / "long.txt").write_text("word " * 100)
    again = remember(tmp_path, "--collection", "notes")
    assert (again.returncode, again.stdout.strip()) == (0, "1 taken in, 3 known already, 0 refused")
    assert gateway.left() == {name: count + 1 for name, count in left.items()}


def test_a_line_that_spoils_the_body_is_refused_alone(tenant: httpx.Client, tmp_path: Path) -> None:
    deep: object = "x"
    for _ in range(40):
        deep = [deep]
    memories = [{"title": f"Note {number}", "text": text} for number, text in enumerate(GOOD)]
    memories.insert(1, {"title": "Deep", "text": "x", "metadata": {"deep": deep}})
    memories.append({"title": "Odd", "text": "x", "surprise": 1})
    (tmp_path / "notes.jsonl").write_text("\n".join(map(json.dumps, memories)))
    result = remember(tmp_path / "notes.jsonl", "--json")

    assert result.returncode == 1
    told = {one["place"]: one["error"] for one in json.loads(result.stdout) if one["status"] == "refused"}
    assert list(told) == [f"{tmp_path / 'notes.jsonl'}:2", f"{tmp_path / 'notes.jsonl'}:5"]
    assert "nested deeper than 32 levels" in told[f"{tmp_path / 'notes.jsonl'}:2"]["message"]
    assert titles(tenant) == ["Note 0", "Note 1", "Note 2"]


def test_what_finds_no_room_is_taken_by_the_same_command_later(
    gateway: Gateway, tenant: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backlog of a tenant of these tests holds five."""
    monkeypatch.setenv("LATENTBANK_LIMITS__BATCH_MEMORIES", "2")
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text(f"The ferry leaves at {number}.")
    full = remember(tmp_path)
    assert (full.returncode, full.stdout.strip()) == (1, "5 taken in, 0 known already, 4 refused")
    assert f"{tmp_path / '5.txt'} and 3 more found no room: Too many jobs are waiting" in full.stderr

    for memory in tenant.get("/v1/memories").json()["data"][:3]:
        tenant.post(f"/v1/jobs/{memory['job_id']}/cancel").raise_for_status()
    later = remember(tmp_path)
    assert "3 taken in" in later.stdout
    assert gateway.left()["memories"] == 8
