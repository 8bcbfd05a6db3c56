from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from core.cli import progress
from core.cli.client import Api
from core.cli.evaluate_bank import distil, identity_of
from core.cli.main import main
from core.evaluation.suite import Document
from core.settings import Settings

DOCUMENTS = [Document(id_, "town", f"The town {id_}", f"{id_} lies on a river.") for id_ in "abc"]


@dataclass
class Bank:
    """Enough of the gateway for a bank: memories by idempotency key; titles in `refused` and `failing` don't come."""

    refused: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    memories: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.rsplit("/", 1)[-1]
        if request.method == "POST":
            return self._remember(request.headers["idempotency-key"], json.loads(request.content))
        if name == "memories":
            return httpx.Response(200, json={"data": list(self.memories.values()), "has_more": False})
        memory = next(m for m in self.memories.values() if name in (m["id"], m["job_id"]))
        if name == memory["id"]:
            return httpx.Response(200, json=memory)
        failed = memory["status"] == "failed"
        job = {"status": "failed" if failed else "succeeded", "reason": "poison" if failed else "published"}
        return httpx.Response(200, json=job | {"created_at": 100, "started_at": 101, "finished_at": 140})

    def _remember(self, key: str, body: dict[str, Any]) -> httpx.Response:
        if body["title"] in self.refused:
            return httpx.Response(400, json={"error": {"message": "Too long.", "code": "context_too_long"}})
        if key in self.memories:
            return httpx.Response(202, json=self.memories[key])
        number = len(self.memories)
        status = "failed" if body["title"] in self.failing else "ready"
        self.memories[key] = {"id": f"mem_{number}", "job_id": f"job_{number}", "status": status, **body}
        return httpx.Response(202, json=self.memories[key] | {"status": "pending"})


@pytest.fixture
def bank(monkeypatch: pytest.MonkeyPatch) -> Bank:
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.0)
    return Bank()


def distilled(bank: Bank, documents: list[Document] = DOCUMENTS) -> list[Any]:
    with Api("http://gateway", "lb_key", transport=httpx.MockTransport(bank)) as api:
        return distil(api, documents, Settings(), lambda: None, Console(quiet=True))


def test_every_document_becomes_a_memory(bank: Bank) -> None:
    made = distilled(bank)
    assert [(one.document.id, one.memory_id, one.ready, one.reused) for one in made] == [
        ("a", "mem_0", True, False),
        ("b", "mem_1", True, False),
        ("c", "mem_2", True, False),
    ]
    assert (made[0].submitted, made[0].began, made[0].finished) == (100, 101, 140)
    assert [m["text"] for m in bank.memories.values()] == [d.text for d in DOCUMENTS]


def test_a_refused_document_and_a_failed_memory_are_reported_and_kept(bank: Bank) -> None:
    bank.refused, bank.failing = {"The town a"}, {"The town b"}
    a, b, c = distilled(bank)
    assert (a.ready, a.memory_id, a.problem) == (False, None, "Too long.")
    assert (b.ready, b.problem) == (False, "poison")
    assert c.ready


def test_what_is_ready_is_reused_and_what_failed_is_tried_again(bank: Bank) -> None:
    bank.failing = {"The town b"}
    distilled(bank)
    bank.failing = set()
    a, b, c = distilled(bank)
    assert (a.memory_id, a.reused) == ("mem_0", True)
    assert (b.memory_id, b.ready, b.reused) == ("mem_3", True, False)
    assert c.reused


def test_another_text_or_another_recipe_is_another_memory() -> None:
    settings = Settings()
    other = settings.model_copy(update={"recipe": settings.recipe.model_copy(update={"rank": 3})})
    changed = Document("a", "town", "The town a", "It has moved.")
    assert (
        len({identity_of(DOCUMENTS[0], settings), identity_of(DOCUMENTS[0], other), identity_of(changed, settings)})
        == 3
    )


def test_a_wrong_suite_is_one_message_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "suite.jsonl"
    suite.write_text('{"id": "a", "kind": "town"}\n')
    monkeypatch.setattr(sys, "argv", ["latentbank", "eval", str(suite), "--json", str(tmp_path / "out" / "x.json")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "suite.jsonl, line 1: title has to be text" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, core.cli.main; print({'torch', 'matplotlib', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
