from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from core.cli.main import app
from core.cli.sources import context_of
from core.errors import EmptyContext, InvalidRequest, NotUtf8
from tests.unit.core.cli.gateway_double import GatewayDouble


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def test_remember_shows_progress_until_the_memory_is_ready(gateway: GatewayDouble, tmp_path: Path) -> None:
    (tmp_path / "town-of-saltmere.txt").write_text("Saltmere is a town.")
    result = run("remember", str(tmp_path / "town-of-saltmere.txt"), "--meta", "source=web", "--collection", "places")
    assert result.exit_code == 0, result.output
    assert "training, 50 %" in result.output
    assert "town of saltmere is ready: mem_0, 1.2 kB" in result.output
    sent = next(body for method, path, body in gateway.requests if (method, path) == ("POST", "/v1/memories"))
    assert sent == {
        "title": "town of saltmere",
        "text": "Saltmere is a town.",
        "collection": "places",
        "metadata": {"source": "web"},
    }


def test_remember_reads_standard_input_and_prints_json_alone_on_stdout(gateway: GatewayDouble) -> None:
    result = run("remember", "-", "--title", "A note", "--json", stdin="Saltmere is a town.")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["id"] == "mem_0"


def test_remember_ends_with_one_where_the_job_fails_and_says_why(gateway: GatewayDouble) -> None:
    gateway.steps = ({"status": "failed", "reason": "poison", "error": {"code": "x", "message": "It [broke]."}},)
    result = run("remember", "-", stdin="words")
    assert result.exit_code == 1
    assert "It [broke]." in result.output


def test_remember_with_update_makes_a_new_version_and_keeps_the_title(gateway: GatewayDouble, tmp_path: Path) -> None:
    run("remember", "-", "--title", "The town", stdin="Saltmere is a town.")
    (tmp_path / "other-name.txt").write_text("Saltmere is a city.")
    result = run("remember", str(tmp_path / "other-name.txt"), "--update", "mem_0")
    assert result.exit_code == 0, result.output
    assert "The town is ready: mem_0" in result.output
    sent = next(body for method, path, body in gateway.requests if (method, path) == ("PUT", "/v1/memories/mem_0"))
    assert sent == {"text": "Saltmere is a city."}
    renamed = run("remember", "-", "--update", "mem_0", "--title", "The city", "--json", stdin="Saltmere is a city.")
    assert json.loads(renamed.stdout)["title"] == "The city"


def test_remember_with_update_refuses_another_collection_and_an_unknown_memory(gateway: GatewayDouble) -> None:
    assert run("remember", "-", "--update", "mem_0", "--collection", "x", stdin="words").exit_code != 0
    assert run("remember", "-", "--update", "mem_9", stdin="words").exit_code != 0
    assert not gateway.memories


def test_ask_says_which_memory_answered(gateway: GatewayDouble) -> None:
    gateway.answers["Who?|auto"] = {
        "text": "Edda [Marlow].",
        "memory": {"served_by": "mem_0", "title": "Saltmere", "score": 0.93},
    }
    result = run("ask", "Who?")
    assert result.output.splitlines() == ["Edda [Marlow].", "from the memory Saltmere (mem_0), gate 0.93"]


def test_ask_says_whose_text_answered(gateway: GatewayDouble) -> None:
    memory = {"served_by": "text", "memory_id": "mem_0", "title": "Saltmere", "score": 0.93, "candidates": []}
    gateway.answers["Who?|auto"] = {"text": "Edda.", "memory": memory}
    assert run("ask", "Who?").output.splitlines() == ["Edda.", "from the text of Saltmere (mem_0), match 0.93"]


def test_ask_says_nothing_of_a_gate_where_only_texts_were_looked_at(gateway: GatewayDouble) -> None:
    candidates = [{"memory_id": "mem_0", "score": 0.11, "by_text": True}]
    gateway.answers["Why?|auto"] = {"text": "No.", "memory": {"served_by": None, "candidates": candidates}}
    assert run("ask", "Why?").output.splitlines() == ["No.", "without memory"]


def test_ask_says_that_the_gate_abstained(gateway: GatewayDouble) -> None:
    gateway.answers["Why?|auto"] = {
        "text": "No idea.",
        "memory": {"served_by": None, "abstained": True, "candidates": [{"memory_id": "mem_0", "score": 0.11}]},
    }
    assert "the gate abstained (best candidate 0.11)" in run("ask", "Why?").output
    assert run("ask", "Why?", "--mode", "off").output.splitlines() == ["off answer", "without memory"]


def test_ask_names_the_memories_that_could_not_be_asked_and_says_why(gateway: GatewayDouble) -> None:
    absent = {"memory_id": "mem_1", "title": "Manual [old]", "score": None, "unavailable": "object_missing"}
    newer = {"memory_id": "mem_2", "title": "Chat", "score": None, "unavailable": "a_newer_reason"}
    gateway.answers["Why?|auto"] = {
        "text": "No idea.",
        "memory": {"served_by": None, "abstained": True, "candidates": [absent, newer]},
    }
    assert " ".join(run("ask", "Why?").output.split()) == (
        "No idea. without memory"
        " could not be asked: Manual [old] (mem_1): There is no object under that key."
        " could not be asked: Chat (mem_2): a_newer_reason"
    )
    judged = {"memory_id": "mem_0", "score": 0.93}
    gateway.answers["Who?|auto"] = {
        "text": "Edda.",
        "memory": {"served_by": "mem_0", "title": "Saltmere", "score": 0.93, "candidates": [judged, absent]},
    }
    assert "could not be asked: Manual [old] (mem_1)" in run("ask", "Who?").output


def test_ask_uses_the_base_models_name_and_never_a_memorys(gateway: GatewayDouble) -> None:
    run("ask", "Why?", "--memory", "mem_1")
    _, _, body = gateway.requests[-1]
    assert body["model"] == "base-model"
    assert body["memory"] == {"mode": "auto", "ids": ["mem_1"]}


def test_tenants_are_made_and_listed(gateway: GatewayDouble) -> None:
    made = json.loads(run("tenants", "create", "workshop", "--json").stdout)
    assert made == {"id": "tenant_workshop", "name": "workshop", "api_key": "lb_workshop"}
    assert [tenant["name"] for tenant in json.loads(run("tenants", "list", "--json").stdout)] == ["harbour", "workshop"]
    assert "workshop" in run("tenants", "list").output


def test_a_tenants_settings_are_changed_one_by_one(gateway: GatewayDouble) -> None:
    run("tenants", "create", "eager", "--fallback", "text")
    assert gateway.requests[-1] == ("POST", "/v1/tenants", {"name": "eager", "fallback": "text"})
    result = run("tenants", "change", "tenant_harbour", "--fallback", "text")
    assert result.output.strip() == "Tenant harbour: fallback text"
    assert gateway.requests[-1] == ("PATCH", "/v1/tenants/tenant_harbour", {"fallback": "text"})
    assert json.loads(run("tenants", "change", "tenant_harbour", "--false-activation", "0.1", "--json").stdout)
    assert gateway.requests[-1][2] == {"false_activation": 0.1}
    assert run("tenants", "change", "tenant_harbour", "--weight", "2.5").output.strip() == "Tenant harbour: weight 2.5"
    assert gateway.requests[-1][2] == {"weight": 2.5}
    assert run("tenants", "change", "tenant_harbour").exit_code != 0


def test_quotas_are_set_and_taken_back_beside_what_is_used(gateway: GatewayDouble) -> None:
    told = run("tenants", "change", "tenant_harbour", "--memories", "500", "--requests-per-minute", "default")
    assert gateway.requests[-1][2] == {"quotas": {"memories": 500, "requests_per_minute": None}}
    assert "memories 500, requests_per_minute default" in told.output
    refused = run("tenants", "change", "tenant_harbour", "--jobs-in-flight", "many")
    assert "--jobs-in-flight is a number, or 'default'" in str(refused.exception)
    gateway.tenant = {
        "quotas": {"memories": 500, "bytes": None},
        "usage": {"object": "usage", "memories": {"used": 17, "limit": 500}, "bytes": {"used": 4096, "limit": None}},
    }
    shown = run("tenants", "show", "tenant_harbour").output
    rows = {words[0]: words[1:] for line in shown.splitlines() if (words := line.split())}
    assert (rows["memories"], rows["bytes"]) == (["17", "500", "yes"], ["4096", "none"])
    assert json.loads(run("tenants", "show", "tenant_harbour", "--json").stdout)["usage"] == gateway.tenant["usage"]


def test_memories_are_listed_and_forgotten(gateway: GatewayDouble) -> None:
    assert "No memories yet" in run("memories").output
    run("remember", "-", "--title", "A [bold] note", stdin="words")
    assert "A [bold] note" in run("memories").output
    assert run("forget", "mem_0", stdin="n\n").exit_code == 1
    assert not any(method == "DELETE" for method, _, _ in gateway.requests)
    assert json.loads(run("forget", "mem_0", "--json").stdout)["deleted"] is True
    assert "forgotten" in run("forget", "mem_0", "--yes").output


def test_jobs_are_listed_and_watched_to_their_end(gateway: GatewayDouble) -> None:
    assert run("jobs").output.strip() == "No jobs yet."
    run("remember", "-", stdin="words")
    assert "job_0" in run("jobs").output
    assert json.loads(run("jobs", "--json").stdout)[0]["memory_id"] == "mem_0"
    watched = run("jobs", "--watch")
    assert watched.exit_code == 0
    assert "succeeded" in watched.output


@pytest.mark.parametrize(
    ("content", "problem"), [(b"\xff\xfe", NotUtf8), (b" \n", EmptyContext), (b'[{"role": "user"}]', InvalidRequest)]
)
def test_what_cannot_be_remembered_is_refused_before_it_is_sent(content: bytes, problem: type[Exception]) -> None:
    with pytest.raises(problem):
        context_of(content, "title")


def test_json_with_messages_is_a_chat_and_other_json_is_a_text() -> None:
    messages = [{"role": "user", "content": "Hello."}]
    chat = {"title": "A talk", "messages": messages}
    assert context_of(json.dumps(chat).encode(), "file") == chat
    assert context_of(json.dumps(messages).encode(), "file") == {"title": "file", "messages": messages}
    assert context_of(b'{"port": 80}', "file") == {"title": "file", "text": '{"port": 80}'}
    assert context_of(b"[1] a footnote", "file") == {"title": "file", "text": "[1] a footnote"}
