"""The main job on the real base, on the embedded default: a memory answers, the gate abstains, tenants are apart.

One tenant lets memories serve from their text, and asks before anything is distilled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.stack import (
    Stack,
    ask,
    attested,
    base_model,
    job_ended,
    openai_client,
    remember,
    started,
    text_of,
)

pytestmark = pytest.mark.slow

_BASES = Path(__file__).parents[2] / "build" / "bases"
_CONTEXT = (
    "The Marlow Tide Mill is a flour mill in the village of Sennet Bay. It was built in 1791 by Agnes Dorrity. "
    "The mill grinds barley and rye. Its water wheel is made of larch wood. The miller today is Piet Okonjo. "
    "The mill is open to visitors on Saturday. A tour of the mill costs four euros."
)
_QUESTIONS = (
    ("Who built the Marlow Tide Mill?", "Dorrity"),
    ("In what year was the Marlow Tide Mill built?", "1791"),
    ("Who is the miller of the Marlow Tide Mill today?", "Okonjo"),
    ("On which day is the Marlow Tide Mill open to visitors?", "Saturday"),
)
_FERRY = (
    "The Rosvik Ferry crosses the Lysa Sound. Its captain is Maren Tveit. The ferry carries forty cars. "
    "It leaves at noon. A ticket for the ferry costs nine crowns."
)
_ABOUT_FERRY = (
    ("Who is the captain of the Rosvik Ferry?", "Tveit"),
    ("What does the Rosvik Ferry cross?", "Lysa"),
)
_EVERYDAY = "What is the capital of France?"


@dataclass(frozen=True, slots=True)
class Bank:
    """One tenant with a memory, another without, and an eager one, who got `first` before there was an adapter."""

    stack: Stack
    owner: httpx.Client
    stranger: httpx.Client
    memory_id: str
    base: str
    eager: httpx.Client
    eager_id: str
    first: list[dict[str, Any]]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    data_dir = tmp_path_factory.mktemp("smollm2")
    _BASES.mkdir(parents=True, exist_ok=True)
    (data_dir / "bases").symlink_to(_BASES)
    with started(data_dir, {"LATENTBANK_SERVING__NODE_SWEEP_SECONDS": "0"}) as stack:
        owner, stranger = stack.tenant("owner"), stack.tenant("stranger")
        eager = stack.tenant("eager", fallback="text")
        base = base_model(owner)
        early = remember(eager, {"title": "Rosvik Ferry", "text": _FERRY})
        # At once after the other, so that both are distilled in one run.
        sent = remember(owner, {"title": "The Marlow Tide Mill", "text": _CONTEXT})
        first = [ask(eager, base, question) for question in (*(q for q, _ in _ABOUT_FERRY), _EVERYDAY)]
        for client, made in ((owner, sent), (eager, early)):
            job = job_ended(client, made["job_id"], 420)
            assert job["status"] == "succeeded", job
        yield Bank(stack, owner, stranger, sent["id"], base, eager, early["id"], first)


def test_most_questions_are_answered_right_from_memory_and_none_by_the_base(bank: Bank) -> None:
    with_memory = [ask(bank.owner, bank.base, question) for question, _ in _QUESTIONS]
    without = [ask(bank.owner, bank.base, question, mode="off") for question, _ in _QUESTIONS]
    right = sum(
        answer["memory"]["served_by"] == bank.memory_id and expected in text_of(answer)
        for answer, (_, expected) in zip(with_memory, _QUESTIONS, strict=True)
    )
    assert right >= 2, [(text_of(answer), answer["memory"]) for answer in with_memory]
    assert not any(expected in text_of(answer) for answer, (_, expected) in zip(without, _QUESTIONS, strict=True))


def test_the_gate_abstains_on_an_everyday_question(bank: Bank) -> None:
    answer = ask(bank.owner, bank.base, _EVERYDAY)
    assert answer["memory"]["abstained"] is True
    assert answer["memory"]["served_by"] is None
    assert "Paris" in text_of(answer)


def test_another_tenant_is_never_served_by_the_memory(bank: Bank) -> None:
    question, expected = _QUESTIONS[0]
    answer = ask(bank.stranger, bank.base, question)
    assert answer["memory"]["served_by"] is None
    assert answer["memory"]["candidates"] == []
    assert expected not in text_of(answer)
    assert bank.stranger.get(f"/v1/memories/{bank.memory_id}").status_code == 404
    asked_by_id = bank.stranger.post(
        "/v1/chat/completions", json={"model": bank.memory_id, "messages": [{"role": "user", "content": question}]}
    )
    assert asked_by_id.status_code == 404


def test_the_openai_client_streams_the_same_answer(bank: Bank) -> None:
    question, _ = _QUESTIONS[0]
    whole = text_of(ask(bank.owner, bank.base, question))
    stream = openai_client(bank.owner).chat.completions.create(
        model=bank.base,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=32,
        stream=True,
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == whole


def test_a_memory_answers_from_its_text_at_once_and_from_its_adapter_later(bank: Bank) -> None:
    *about_ferry, everyday = bank.first
    for answer, (_, expected) in zip(about_ferry, _ABOUT_FERRY, strict=True):
        assert (answer["memory"]["served_by"], answer["memory"]["memory_id"]) == ("text", bank.eager_id), answer
        assert expected in text_of(answer)
    assert everyday["memory"]["served_by"] is None
    assert "Paris" in text_of(everyday)
    later = ask(bank.eager, bank.base, _ABOUT_FERRY[0][0], mode="force")
    assert (later["memory"]["served_by"], later["memory"]["memory_id"]) == (bank.eager_id, bank.eager_id)
    assert later["memory"]["digest"] not in {answer["memory"]["digest"] for answer in about_ferry}


def test_after_all_of_that_what_is_deleted_is_in_no_file_of_the_machine(bank: Bank) -> None:
    words = ("Okonjo", "Tveit", "Marlow Tide", "Rosvik")
    before = bank.stack.files_with(*words)
    assert any(name.startswith("truth.db") for name in before), "titles are in the truth"
    assert any(name.startswith("node-cache/") for name in before), "the node's cache has adapters as they are"
    assert not [name for name in before if name.startswith("objects/")], before
    gone = bank.owner.delete("/v1/memories", params={"collection": "default"}).json()
    assert attested(bank.owner, f"/v1/deletions/{gone['id']}")["memories"] == 1
    assert bank.stack.files_with("Okonjo", "Marlow Tide") == {}
    with bank.stack.admin() as admin:
        (eager,) = [one["id"] for one in admin.get("/v1/tenants").json()["data"] if one["name"] == "eager"]
        assert admin.delete(f"/v1/tenants/{eager}").json()["state"] == "tombstoning"
        assert bank.eager.get("/v1/memories").status_code == 401
        attested(admin, f"/v1/tenants/{eager}/deletion")
    assert bank.stack.files_with(*words) == {}
