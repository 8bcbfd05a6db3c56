"""Answers from the first second: over a socket, before a memory has its adapter, and what is left of it afterwards."""

from __future__ import annotations

import openai
import pytest

from core.base_model.description import BaseDescription
from core.truth import memories
from gateway.answers import MemoryReport
from tests.fixtures.published import OPEN
from tests.integration.inference.conftest import RunningWorker
from tests.integration.inference.test_openai import ask, stream, text_of

TOWN = "Velmora is a town by the river Asten. Its mayor is Ilka Brandt."
ASKED = "Who is the mayor of Velmora?"


@pytest.fixture
def tenant(worker: RunningWorker) -> str:
    return worker.publisher.tenant("eager", fallback="text")


def test_a_memory_serves_from_its_text_until_its_adapter_is_ready(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str
) -> None:
    client = worker.openai(tenant)
    before = worker.metric("latentbank_gate_decisions_total", outcome="text")
    admitted = worker.publisher.admit(tenant, "Velmora", TOWN)
    first = ask(client, tiny_base.name, ASKED)
    assert set(first.memory) == set(MemoryReport.model_fields)
    told = MemoryReport.model_validate(first.memory, strict=True, extra="forbid")
    assert (told.served_by, told.memory_id, told.abstained) == ("text", admitted[0], False)
    assert first.usage.prompt_tokens > len(TOWN)
    second = ask(client, tiny_base.name, "Which river is the town of Velmora by?")
    assert second.memory["served_by"] == "text"
    assert second.usage.prompt_tokens_details.cached_tokens >= len(TOWN)
    everyday = ask(client, tiny_base.name, "How do I boil an egg?")
    assert (everyday.memory["served_by"], everyday.memory["abstained"]) == (None, True)
    assert worker.metric("latentbank_gate_decisions_total", outcome="text") == before + 2
    worker.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=OPEN, admitted=admitted)
    assert ask(client, tiny_base.name, ASKED).memory["served_by"] == admitted[0]


def test_a_stream_from_a_text_says_so_and_is_the_whole_answer(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str
) -> None:
    memory_id, _ = worker.publisher.admit(tenant, "Velmora", TOWN)
    client = worker.openai(tenant)
    whole = ask(client, memory_id, ASKED)
    chunks = stream(client, memory_id, ASKED, stream_options={"include_usage": True})
    assert text_of(chunks) == whole.choices[0].message.content
    assert all(chunk.memory["served_by"] == "text" for chunk in (chunks[0], chunks[-2], chunks[-1]))
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    by_hand = f"{TOWN}\n\nUsing the text above, answer briefly: {ASKED}"
    by_client = ask(client, tiny_base.name, by_hand, extra_body={"memory": {"mode": "off"}})
    assert by_client.choices[0].message.content == whole.choices[0].message.content


def test_without_the_setting_a_memory_without_an_adapter_is_a_conflict(
    worker: RunningWorker, tiny_base: BaseDescription
) -> None:
    tenant = worker.publisher.tenant("plain")
    memory_id, _ = worker.publisher.admit(tenant, "Velmora", TOWN)
    client = worker.openai(tenant)
    assert ask(client, tiny_base.name, ASKED).memory["candidates"] == []
    with pytest.raises(openai.ConflictError):
        ask(client, memory_id, ASKED)
    with pytest.raises(openai.BadRequestError):
        ask(client, tiny_base.name, ASKED, extra_body={"memory": {"fallback": "text"}})


def test_a_deleted_memory_serves_no_more_and_its_kv_goes(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str
) -> None:
    client = worker.openai(tenant)
    memory_id, _ = worker.publisher.admit(tenant, "Velmora", TOWN)
    assert ask(client, tiny_base.name, ASKED).memory["served_by"] == "text"
    with_text = worker.metric("vllm:kv_cache_usage_perc")
    with worker.database.begin() as connection:
        memories.delete_memory(connection, tenant, memory_id)
    after = ask(client, tiny_base.name, ASKED)
    assert (after.memory["served_by"], after.memory["candidates"]) == (None, [])
    # The question's own blocks came, and more of the text's went.
    assert worker.metric("vllm:kv_cache_usage_perc") < with_text
    with pytest.raises(openai.NotFoundError):
        ask(client, memory_id, ASKED)
