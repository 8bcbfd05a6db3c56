from __future__ import annotations

import contextlib
import json

import httpx
import openai
import pytest
import uvicorn

from tests.integration.gateway.conftest import TOKEN, Gateway, announce_worker
from tests.integration.gateway.inference_stand_in import StandIn
from tests.integration.gateway.servers import RunningServer, wait_until

QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "When does it open?"}]}
GONE = "http://127.0.0.1:9"


@pytest.fixture
def client(gateway: Gateway, inference: StandIn) -> openai.OpenAI:
    key = gateway.new_tenant("harbour")
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=10)


def test_the_openai_client_asks_and_gets_the_memory_extension(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**QUESTION, extra_body={"memory": {"top_k": 2, "mode": "auto"}})  # type: ignore[call-overload]
    assert answer.choices[0].message.content == "You said: When does it open?"
    assert answer.stand_in["asked"] == {"top_k": 2, "mode": "auto"}
    assert answer.memory["abstained"] is True


def test_the_openai_client_streams(client: openai.OpenAI, inference: StandIn) -> None:
    chunks = list(client.chat.completions.create(**QUESTION, stream=True))  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "the harbour opens at six"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert inference.cancelled == 0


def test_the_openai_client_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize("name", ["tiny", "org/tiny-1.5_x@2", "mem_abc"])
def test_a_model_is_looked_up_by_its_name(client: openai.OpenAI, inference: StandIn, name: str) -> None:
    assert client.models.retrieve(name).id == name
    assert inference.requests[-1]["model"] == name


@pytest.mark.parametrize("name", ["unknown", "..%2Finternal%2Fresidency", "%2e%2e", "a%2F%2Fb", "a%3Fb", "a" * 300])
def test_a_name_that_can_be_no_models_is_a_404_and_leads_nowhere_else(
    gateway: Gateway, tenant: httpx.Client, inference: StandIn, name: str
) -> None:
    answer = tenant.get(f"/v1/models/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert [one["model"] for one in inference.requests] == ([name] if name == "unknown" else [])


def test_the_openai_client_understands_our_errors(client: openai.OpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**{**QUESTION, "model": "unknown"})  # type: ignore[call-overload]
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as empty:
        client.chat.completions.create(model="tiny", messages=[])
    assert empty.value.param == "messages"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="lb_wrong").models.list()


def test_the_body_is_passed_on_byte_for_byte(gateway: Gateway, tenant: httpx.Client, inference: StandIn) -> None:
    odd = {**QUESTION, "logit_bias": {"5": -100}, "a new field": ["ü"], "temperature": 0}
    tenant.post("/v1/chat/completions", json=odd).raise_for_status()
    assert inference.requests[0]["body"] == odd


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'{"model": "\xff"}', b'{"messages": [{"role": "user", "content": "a"}]}',
        json.dumps({**QUESTION, "messages": "hi"}).encode(), json.dumps({**QUESTION, "model": None}).encode(),
        json.dumps({**QUESTION, "memory": {"mode": "perhaps"}}).encode(),
        json.dumps({**QUESTION, "memory": {"top_k": 0}}).encode(), json.dumps({**QUESTION, "max_tokens": 0}).encode(),
    ],
)  # fmt: skip
def test_a_question_that_is_none_is_refused_before_any_worker(
    body: bytes, gateway: Gateway, tenant: httpx.Client, inference: StandIn
) -> None:
    answer = tenant.post("/v1/chat/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert inference.requests == []


def test_a_large_question_is_refused(gateway: Gateway, tenant: httpx.Client, inference: StandIn) -> None:
    large = {**QUESTION, "messages": [{"role": "user", "content": "word " * 20_000}]}
    assert tenant.post("/v1/chat/completions", json=large).status_code == 413
    assert inference.requests == []


def test_without_a_worker_the_answer_says_when_to_come_back(gateway: Gateway, tenant: httpx.Client) -> None:
    for answer in (tenant.post("/v1/chat/completions", json=QUESTION), tenant.get("/v1/models")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert answer.json()["error"]["message"] == "No inference worker is there right now; try again."
        assert int(answer.headers["Retry-After"]) > 0


def test_a_worker_that_is_gone_is_passed_over(gateway: Gateway, tenant: httpx.Client, inference: StandIn) -> None:
    announce_worker(gateway, "worker_gone_1", GONE)
    announce_worker(gateway, "worker_gone_2", GONE)
    for _ in range(3):
        assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 200


@pytest.mark.parametrize("status", [429, 503])
def test_a_worker_that_is_busy_is_passed_over_and_its_no_relayed_only_if_all_are(
    gateway: Gateway, tenant: httpx.Client, inference: StandIn, status: int
) -> None:
    inference.busy = status
    answer = tenant.post("/v1/chat/completions", json=QUESTION)
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, "The stand-in says no.")
    assert "Retry-After" in answer.headers

    other = StandIn(TOKEN)
    with RunningServer(uvicorn.Config(other.app, log_config=None)) as server:
        announce_worker(gateway, "worker_other", server.url)
        assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 200


def test_only_dead_workers_are_a_503(gateway: Gateway, tenant: httpx.Client) -> None:
    announce_worker(gateway, "worker_gone", GONE)
    answer = tenant.post("/v1/chat/completions", json=QUESTION)
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        503,
        "No inference worker answered; try again.",
    )


def test_a_worker_with_another_internal_token_is_our_fault_and_not_the_clients(
    gateway: Gateway, tenant: httpx.Client, inference: StandIn
) -> None:
    inference.token = "another"
    assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 503


def test_a_worker_that_fails_without_shape_is_given_one(
    gateway: Gateway, tenant: httpx.Client, inference: StandIn
) -> None:
    answer = tenant.post("/v1/chat/completions", json={**QUESTION, "model": "plain-500"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "inference_error")


def test_a_stream_that_breaks_off_ends_with_an_error_event(client: openai.OpenAI) -> None:
    chunks = iter(client.chat.completions.create(**{**QUESTION, "model": "breaks"}, stream=True))  # type: ignore[call-overload]
    assert next(chunks).choices[0].delta.content == "the"
    with pytest.raises(openai.APIError, match="broke off"):
        next(chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_cancels_the_workers_request(
    stream: bool, gateway: Gateway, tenant: httpx.Client, inference: StandIn
) -> None:
    body = {**QUESTION, "model": "slow", "stream": stream}
    headers = {"Authorization": tenant.headers["Authorization"]}

    with (
        contextlib.suppress(httpx.ReadTimeout),
        gateway.client() as leaving,
        leaving.stream("POST", "/v1/chat/completions", json=body, headers=headers, timeout=0.5) as answer,
    ):
        next(answer.iter_lines())

    wait_until(lambda: inference.cancelled == 1)
    wait_until(lambda: inference.running == 0)
    wait_until(lambda: not gateway.services.inference._in_flight)
