"""The `openai` client, unchanged, against a worker on a socket."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from core.base_model.description import BaseDescription
from core.gate.features import FEATURES
from core.ids import new_id
from core.storage.publication import read_manifest
from gateway.answers import MemoryReport
from tests.fixtures.published import SHUT, samples_on
from tests.integration.inference.conftest import RunningWorker

TOWN = "Velmora is a town by the river Asten. Its mayor is Ilka Brandt."
SHIP = "The ship Corvina left Lubek in 1703. Its captain was Joris Vane."
GATE = samples_on("dense", 0.45)


def ask(client: openai.OpenAI, model: str, text: str, **fields: Any) -> Any:
    fields = {"max_tokens": 16, **fields}
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **fields)


def stream(client: openai.OpenAI, model: str, text: str, **fields: Any) -> list[Any]:
    return list(ask(client, model, text, stream=True, **fields))


def text_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.fixture(scope="module")
def tenant(worker: RunningWorker) -> str:
    return worker.publisher.tenant()


@pytest.fixture(scope="module")
def town(worker: RunningWorker, tenant: str) -> str:
    return worker.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=GATE).memory_id


@pytest.fixture(scope="module")
def ship(worker: RunningWorker, tenant: str) -> str:
    return worker.publisher.publish(tenant, "Corvina", SHIP, seed=2, samples=GATE).memory_id


def test_the_gate_answers_from_the_memory_that_the_question_is_about(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str, town: str, ship: str
) -> None:
    client = worker.openai(tenant)
    about_town = ask(client, tiny_base.name, "Who is the mayor of Velmora?")
    assert about_town.memory["served_by"] == town
    assert about_town.memory["score"] >= about_town.memory["threshold"]
    assert {candidate["memory_id"] for candidate in about_town.memory["candidates"]} == {town, ship}
    assert about_town.choices[0].finish_reason in ("stop", "length")
    assert about_town.usage.prompt_tokens_details.cached_tokens >= 0
    assert ask(client, tiny_base.name, "Who was captain of the Corvina?").memory["served_by"] == ship
    everyday = ask(client, tiny_base.name, "How do I boil an egg?")
    assert (everyday.memory["served_by"], everyday.memory["abstained"]) == (None, True)


def test_the_memory_report_is_what_the_gateway_declares_and_tells_what_is_asked(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str, town: str, ship: str
) -> None:
    client = worker.openai(tenant)
    report = ask(client, tiny_base.name, "Who is the mayor of Velmora?").memory
    assert set(report) == set(MemoryReport.model_fields)
    parsed = MemoryReport.model_validate(report, strict=True, extra="forbid")
    assert [candidate.passed for candidate in parsed.candidates] == [True, False]
    assert all("signals" not in candidate for candidate in report["candidates"])
    memory = {"explain": True, "max_active": 2, "threshold": 0.0}
    both = ask(client, tiny_base.name, "Who is the mayor of Velmora?", extra_body={"memory": memory}).memory
    assert both["served_by_all"] == [candidate["memory_id"] for candidate in both["candidates"]]
    assert both["served_by"] == both["served_by_all"][0]
    assert all(set(candidate["signals"]) == set(FEATURES) for candidate in both["candidates"])


def test_a_memory_whose_adapter_is_lost_is_named_and_the_bank_goes_on(
    worker: RunningWorker, tiny_base: BaseDescription
) -> None:
    tenant = worker.publisher.tenant("unlucky")
    sound = worker.publisher.publish(tenant, "Velmora", TOWN, seed=1, samples=GATE)
    lost = worker.publisher.publish(tenant, "Corvina", SHIP, seed=2, samples=GATE)
    manifest = read_manifest(worker.store, lost.manifest_key)
    for file in manifest.files:
        worker.store.delete(manifest.key_of(file))
    client = worker.openai(tenant)
    report = ask(client, tiny_base.name, "Who is the mayor of Velmora?").memory
    parsed = MemoryReport.model_validate(report, strict=True, extra="forbid")
    assert parsed.served_by == sound.memory_id
    assert [(one.memory_id, one.unavailable) for one in parsed.candidates] == [
        (sound.memory_id, None),
        (lost.memory_id, "object_missing"),
    ]
    with pytest.raises(openai.NotFoundError) as refused:
        ask(client, lost.memory_id, "Who?")
    assert refused.value.code == "object_missing"


def test_a_stream_says_who_serves_first_and_last_and_adds_up_to_the_whole(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str, town: str
) -> None:
    client = worker.openai(tenant)
    whole = ask(client, tiny_base.name, "Who is the mayor of Velmora?")
    chunks = stream(client, tiny_base.name, "Who is the mayor of Velmora?", stream_options={"include_usage": True})
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].memory["served_by"] == chunks[-1].memory["served_by"] == chunks[-2].memory["served_by"] == town
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_raw_stream_is_server_sent_events_that_end_with_done(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str
) -> None:
    body = {
        "model": tiny_base.name,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "max_tokens": 3,
        "memory": {"mode": "off"},
    }
    with worker.http(tenant) as http:
        answer = http.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "req-7"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-request-id"] == "req-7"
    events = answer.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events[:-1])


def test_plain_completions_work_and_the_same_text_gives_the_same_answer(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str, town: str
) -> None:
    client = worker.openai(tenant)
    rendered = "<|im_start|>user\nWho is the mayor of Velmora?<|im_end|>\n<|im_start|>assistant\n"
    plain = client.completions.create(model=town, prompt=rendered, max_tokens=16)
    chat = ask(client, town, "Who is the mayor of Velmora?")
    assert plain.choices[0].text == chat.choices[0].message.content
    chunks = list(client.completions.create(model=town, prompt=rendered, max_tokens=16, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == plain.choices[0].text
    bare = client.completions.create(model=tiny_base.name, prompt="Once upon", max_tokens=4)
    assert bare.usage.completion_tokens == 4


def test_models_are_the_base_and_the_tenants_own_memories(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str, town: str, ship: str
) -> None:
    other = worker.publisher.tenant("other")
    assert {model.id for model in worker.openai(tenant).models.list()} == {tiny_base.name, town, ship}
    assert {model.id for model in worker.openai(other).models.list()} == {tiny_base.name}


def test_another_tenant_gets_404_for_a_memorys_id_and_no_candidate(
    worker: RunningWorker, tiny_base: BaseDescription, town: str
) -> None:
    client = worker.openai(worker.publisher.tenant("other"))
    for fields in ({"model": town}, {"model": tiny_base.name, "extra_body": {"memory": {"ids": [town]}}}):
        model = fields.pop("model")
        with pytest.raises(openai.NotFoundError) as refused:
            ask(client, str(model), "Who is the mayor of Velmora?", **fields)
        assert refused.value.code == "not_found"
    assert ask(client, tiny_base.name, "Who is the mayor of Velmora?").memory["candidates"] == []


def test_errors_come_in_openais_shape(worker: RunningWorker, tiny_base: BaseDescription, tenant: str) -> None:
    client = worker.openai(tenant)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        ask(client, "gpt-4", "Hi")
    with pytest.raises(openai.NotFoundError):
        ask(client, new_id("mem"), "Hi")
    with pytest.raises(openai.BadRequestError, match="not supported"):
        ask(client, tiny_base.name, "Hi", n=3)
    with pytest.raises(openai.BadRequestError) as too_long:
        ask(client, tiny_base.name, "x" * 3000)
    assert too_long.value.code == "context_length_exceeded"
    with worker.http(tenant) as http:
        assert http.get("/nothing").json()["error"]["code"] == "not_found"
        broken = http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
        assert (broken.status_code, broken.json()["error"]["type"]) == (400, "invalid_request_error")
        for wrong in ({"X-LatentBank-Internal": "guess"}, {"X-LatentBank-Tenant": "../x"}):
            assert http.get("/v1/models", headers=wrong).status_code == 401


def test_stop_sequences_and_seeds_reach_the_engine(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str
) -> None:
    client = worker.openai(tenant)
    free = ask(client, tiny_base.name, "Hi", temperature=1.0, seed=5, max_tokens=24)
    text = free.choices[0].message.content
    assert ask(client, tiny_base.name, "Hi", temperature=1.0, seed=5, max_tokens=24).choices[0].message.content == text
    at = len(text) // 2
    stopped = ask(client, tiny_base.name, "Hi", temperature=1.0, seed=5, max_tokens=24, stop=text[at : at + 2])
    assert stopped.choices[0].finish_reason == "stop"
    assert text.startswith(stopped.choices[0].message.content)
    assert text[at : at + 2] not in stopped.choices[0].message.content


def test_a_conversation_reuses_its_own_prefix(worker: RunningWorker, tenant: str, town: str) -> None:
    client = worker.openai(tenant)
    messages = [
        {"role": "user", "content": "Who is the mayor of Velmora, please tell?"},
        {"role": "assistant", "content": "Ilka Brandt."},
        {"role": "user", "content": "And by which river does it lie?"},
    ]
    first = client.chat.completions.create(model=town, messages=messages[:1], max_tokens=4)  # type: ignore[arg-type]
    later = client.chat.completions.create(model=town, messages=messages, max_tokens=4)  # type: ignore[arg-type]
    assert later.usage is not None
    assert first.usage is not None
    assert later.usage.prompt_tokens_details is not None
    assert later.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens // 2


def test_questions_asked_together_are_answered_as_alone(
    worker: RunningWorker, tiny_base: BaseDescription, tenant: str, town: str, ship: str
) -> None:
    client = worker.openai(tenant)
    asked = [
        (town, "Who is the mayor?"),
        (ship, "Who is the captain?"),
        (tiny_base.name, "How do I boil an egg?"),
        (tiny_base.name, "Who is the mayor of Velmora?"),
    ]

    def text(question: tuple[str, str]) -> str:
        return str(ask(client, *question, max_tokens=40).choices[0].message.content)

    alone = [text(question) for question in asked]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(text, asked * 3)) == alone * 3


def test_a_client_that_goes_away_frees_the_engine(worker: RunningWorker, tenant: str, town: str) -> None:
    client = worker.openai(tenant)
    begun = time.monotonic()
    whole = ask(client, town, "Who?", max_tokens=1500)
    seconds = time.monotonic() - begun
    assert whole.usage.completion_tokens == 1500
    before = worker.metric("vllm:generation_tokens_total")
    streaming = ask(client, town, "Who?", stream=True, max_tokens=1500)
    next(iter(streaming))
    streaming.close()
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=seconds / 5), town, "Who?", max_tokens=1500)
    generated = -1.0
    while (now := worker.metric("vllm:generation_tokens_total")) != generated:
        generated = now
        time.sleep(0.3)
    assert worker.metric("vllm:num_requests_running") == 0
    assert generated - before < 1400


def test_a_deleted_memory_is_404_at_the_next_question(worker: RunningWorker) -> None:
    tenant = worker.publisher.tenant("short")
    entry = worker.publisher.publish(tenant, "Velmora", TOWN, seed=9, samples=SHUT)
    client = worker.openai(tenant)
    assert ask(client, entry.memory_id, "Who?").memory["digest"] == entry.adapter_digest
    worker.publisher.delete(entry, tenant)
    with pytest.raises(openai.NotFoundError, match="deleted"):
        ask(client, entry.memory_id, "Who?")
