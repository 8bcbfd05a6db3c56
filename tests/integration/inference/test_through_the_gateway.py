"""The `openai` client, unchanged, through a real gateway to a real worker; and the worker's operator beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from core.base_model.description import BaseDescription
from core.ids import new_id
from core.retrieval.encoder import Encoder
from core.settings import GatewaySettings, Settings
from gateway.__main__ import server_config
from gateway.services import open_services
from tests.fixtures.canary import listening_canary
from tests.fixtures.garbage import answer, pieces
from tests.fixtures.ports import free_port
from tests.fixtures.published import OPEN
from tests.integration.gateway.filling import WORD, Filling
from tests.integration.gateway.servers import RunningServer
from tests.integration.inference.conftest import TOKEN, RunningWorker, start_worker, stop_worker

ADMIN_KEY = "admin-key-of-the-test"
SECRET = "kept-on-disk-9be2"
TOWN = "Velmora is a town by the river Asten. Its mayor is Ilka Brandt."
ASKED = "Who is the mayor of Velmora?"
RENDERED = f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """A gateway and its worker, which takes two requests at once and lets one wait."""

    gateway_url: str
    worker: RunningWorker
    admin_url: str
    base: str

    def tenant(self) -> tuple[str, openai.OpenAI]:
        """A new tenant's id, and a client with its key."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        made = httpx.post(f"{self.gateway_url}/v1/tenants", json={"name": "harbour"}, headers=headers, timeout=20)
        key = made.raise_for_status().json()["api_key"]
        return made.json()["id"], openai.OpenAI(base_url=f"{self.gateway_url}/v1", api_key=key, max_retries=0)

    def operate(self, what: str, memory_id: str, key: str = ADMIN_KEY) -> httpx.Response:
        url = f"{self.admin_url}/v1/{what}_lora_adapter"
        return httpx.post(url, json={"lora_name": memory_id}, headers={"Authorization": f"Bearer {key}"}, timeout=30)


@pytest.fixture(scope="module")
def service(
    tiny_base: BaseDescription, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    directory, admin_port = tmp_path_factory.mktemp("through"), free_port()
    with ExitStack() as running:
        worker = start_worker(
            directory,
            tiny_base,
            encoder,
            LATENTBANK_ADMIN_KEY=ADMIN_KEY,
            LATENTBANK_SERVING__ADMIN_PORT=str(admin_port),
            LATENTBANK_SERVING__MAX_RUNNING="2",
            LATENTBANK_SERVING__MAX_WAITING="1",
        )
        running.callback(lambda: _ends_in_order(worker))
        settings = Settings(
            _env_file=None,
            data_dir=tiny_base.path.parent.parent,
            database_url=f"sqlite:///{directory / 'truth.db'}",
            storage={"url": f"file://{directory / 'objects'}"},
            base_model=tiny_base.reference,
            admin_key=ADMIN_KEY,
            internal_token=TOKEN,
            gateway=GatewaySettings(residency_poll_seconds=0.5, worker_list_seconds=0),
        )
        server = running.enter_context(RunningServer(server_config(settings, open_services(settings))))
        worker.await_ready()
        _until(lambda: httpx.get(f"{server.url}/ready", timeout=20).status_code == 200)
        yield Service(server.url, worker, f"http://127.0.0.1:{admin_port}", tiny_base.name)


@pytest.fixture(scope="module")
def asked(service: Service) -> tuple[openai.OpenAI, str]:
    """A tenant's client, and its memory."""
    tenant_id, client = service.tenant()
    return client, service.worker.publisher.publish(tenant_id, "Velmora", TOWN, seed=1, samples=OPEN).memory_id


def chat(client: openai.OpenAI, model: str, **fields: Any) -> Any:
    fields = {"max_tokens": 12, **fields}
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": ASKED}], **fields)


def test_chat_is_the_same_streamed_or_not(service: Service, asked: tuple[openai.OpenAI, str]) -> None:
    client, memory_id = asked
    whole = chat(client, service.base)
    assert whole.object == "chat.completion"
    assert whole.memory["served_by"] == memory_id
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(chat(client, service.base, stream=True, stream_options={"include_usage": True}))
    assert "".join(one.choices[0].delta.content or "" for one in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], whole.usage.completion_tokens)
    assert all(chunk.usage is None for chunk in chat(client, service.base, stream=True))


def test_completions_are_the_same_streamed_or_not(service: Service, asked: tuple[openai.OpenAI, str]) -> None:
    client, memory_id = asked
    ask: dict[str, Any] = {"model": memory_id, "prompt": RENDERED, "max_tokens": 12}
    whole = client.completions.create(**ask)
    assert whole.object == "text_completion"
    assert whole.choices[0].text == chat(client, memory_id).choices[0].message.content
    chunks = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_models_are_listed_and_retrieved(service: Service, asked: tuple[openai.OpenAI, str]) -> None:
    client, memory_id = asked
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {service.base, memory_id}
    for name in listed:
        assert client.models.retrieve(name) == listed[name]
    assert client.models.retrieve(memory_id).parent == service.base  # type: ignore[attr-defined]
    _, stranger = service.tenant()
    for name in (memory_id, "gpt-4", "org/gpt-4", new_id("mem")):
        with pytest.raises(openai.NotFoundError):
            stranger.models.retrieve(name)


def test_no_models_name_leads_to_another_address_of_the_worker(
    service: Service, asked: tuple[openai.OpenAI, str]
) -> None:
    headers = {"Authorization": f"Bearer {asked[0].api_key}"}
    for name in ("..%2Finternal%2Fresidency", "%2e%2e%2f%2e%2e%2fmetrics", "x%2F..%2F..%2Fmetrics", "a%3Fb", "a%0Ab"):
        answer = httpx.get(f"{service.gateway_url}/v1/models/{name}", headers=headers, timeout=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_no_question_makes_a_worker_fetch_or_open_anything(
    service: Service, asked: tuple[openai.OpenAI, str], tmp_path: Path
) -> None:
    document = httpx.get(f"{service.gateway_url}/openapi.json", timeout=20).json()
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    headers = {"Authorization": f"Bearer {asked[0].api_key}"}
    taken = set()
    with listening_canary() as canary:
        for value in (f"{canary.url}/x.png", "../" * 12 + str(secret)[1:]):
            for path, body in _questions(document, service.base, value):
                answer = httpx.post(service.gateway_url + path, json=body, headers=headers, timeout=30)
                assert answer.status_code < 500, (body, answer.text)
                assert SECRET not in answer.text
                if answer.status_code == 200:
                    taken.add(path)
        assert canary.asked == []
    assert taken == {"/v1/chat/completions", "/v1/completions"}
    assert SECRET not in service.worker.log.read_text()


def _questions(document: dict[str, Any], base: str, value: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """`value` wherever a question has a string, and wherever other servers of this API take an address."""
    filling = Filling(document)
    for path, schema in (("/v1/chat/completions", "ChatQuestion"), ("/v1/completions", "CompletionQuestion")):
        for body in filling.bodies({"$ref": f"#/components/schemas/{schema}"}, value):
            yield path, {"max_tokens": 2, **body, "model": base if body["model"] == WORD else body["model"]}
    user = {"role": "user", "content": ASKED}
    for part in (
        {"type": "image_url", "image_url": {"url": value}},
        {"type": "input_audio", "input_audio": {"data": value, "format": "wav"}},
        {"type": "file", "file": {"file_id": value}},
    ):
        message = {"role": "user", "content": [{"type": "text", "text": ASKED}, part]}
        yield "/v1/chat/completions", {"model": base, "max_tokens": 2, "messages": [message]}
    for field in ("lora_path", "chat_template", "tools", "web_search_options", "user", "metadata", "lora_request"):
        yield "/v1/chat/completions", {"model": base, "max_tokens": 2, "messages": [user], field: value}


def test_garbage_on_any_port_ends_no_process_and_is_told_nothing(service: Service) -> None:
    for url in (service.gateway_url, service.worker.url, service.admin_url):
        port = httpx.URL(url).port
        assert port is not None
        for piece in pieces(60):
            heard = answer(port, piece)
            assert b" 500 " not in heard.partition(b"\r\n")[0], piece
            assert b"Traceback" not in heard, piece
    for url in (service.gateway_url, service.worker.url):
        assert httpx.get(f"{url}/health", timeout=20).status_code == 200
    assert service.operate("load", "nothing").status_code == 400
    assert service.worker.process.poll() is None
    assert "Traceback" not in service.worker.log.read_text()


def test_limits_stops_and_sampling_reach_the_engine(service: Service, asked: tuple[openai.OpenAI, str]) -> None:
    client, _ = asked
    assert chat(client, service.base, max_tokens=3).usage.completion_tokens == 3
    assert chat(client, service.base, max_tokens=9, max_completion_tokens=4).usage.completion_tokens == 4
    drawn = {"temperature": 1.0, "top_p": 0.9, "seed": 5, "max_tokens": 24}
    text = chat(client, service.base, **drawn).choices[0].message.content
    assert chat(client, service.base, **drawn).choices[0].message.content == text
    assert chat(client, service.base, **{**drawn, "seed": 6}).choices[0].message.content != text
    at = len(text) // 2
    stopped = chat(client, service.base, **drawn, stop=["\0never", text[at : at + 2]]).choices[0]
    assert stopped.finish_reason == "stop"
    assert text[at : at + 2] not in stopped.message.content


def test_what_clients_send_to_say_nothing_is_taken(service: Service, asked: tuple[openai.OpenAI, str]) -> None:
    client, _ = asked
    said = chat(client, service.base)
    same = chat(
        client,
        service.base,
        n=1,
        user="u",
        logprobs=None,
        logit_bias={},
        presence_penalty=0,
        response_format={"type": "text"},
        metadata={"trace": "7"},
        service_tier="auto",
        store=False,
        stream=False,
        stop=None,
        seed=None,
    )
    assert same.choices == said.choices
    own = said.choices[0].message.model_dump()
    again: Any = [{"role": "user", "content": ASKED}, own, {"role": "user", "content": "Since when?"}]
    later = client.chat.completions.create(model=service.base, messages=again, max_tokens=4)
    assert later.usage is not None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"tempature": 1}}, "tempature"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"memory": {"mode": "perhaps"}}}, "memory.mode"),
    ],
)
def test_what_is_not_done_is_a_400_that_names_it(
    service: Service, asked: tuple[openai.OpenAI, str], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(asked[0], service.base, **fields)
    assert refused.value.param == param
    assert param in refused.value.message


def test_errors_are_the_clients_own(service: Service, asked: tuple[openai.OpenAI, str]) -> None:
    client, _ = asked
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        chat(client, "gpt-4")
    with pytest.raises(openai.NotFoundError):
        chat(client, new_id("mem"))
    with pytest.raises(openai.AuthenticationError):
        chat(client.with_options(api_key="lb_wrong"), service.base)
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=service.base, prompt="x" * 3000)
    assert long.value.code == "context_length_exceeded"


def test_a_memory_that_is_not_ready_is_a_conflict(service: Service) -> None:
    tenant_id, client = service.tenant()
    waiting, _ = service.worker.publisher.admit(tenant_id, "Waits")
    with pytest.raises(openai.ConflictError, match="pending"):
        chat(client, waiting)
    with pytest.raises(openai.ConflictError, match="pending"):
        client.models.retrieve(waiting)


def test_a_busy_worker_is_a_rate_limit_that_says_when_and_clients_that_leave_make_room(
    service: Service, asked: tuple[openai.OpenAI, str]
) -> None:
    client, memory_id = asked
    with ExitStack() as leaving:
        for _ in range(2):
            stream = leaving.enter_context(chat(client, memory_id, stream=True, max_tokens=1500))
            next(iter(stream))
        waits = leaving.enter_context(ThreadPoolExecutor(1)).submit(chat, client, memory_id)
        _until(lambda: service.worker.metric("vllm:num_requests_waiting") == 1)
        with pytest.raises(openai.RateLimitError) as refused:
            chat(client, memory_id)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert refused.value.code == "overloaded"
    assert waits.result().choices
    _until(lambda: service.worker.metric("vllm:num_requests_running") == 0)


def test_an_operator_keeps_a_memory_loaded_by_its_id(service: Service) -> None:
    tenant_id, client = service.tenant()
    entry = service.worker.publisher.publish(tenant_id, "Velmora", TOWN, seed=7)
    assert service.operate("load", entry.memory_id, key="guess").status_code == 401
    assert service.operate("load", "/etc/passwd").status_code == 400
    loaded = service.operate("load", entry.memory_id)
    assert (loaded.status_code, loaded.text) == (
        200,
        f"Success: LoRA adapter '{entry.memory_id}' added successfully.",
    )
    assert entry.adapter_digest in _report(service, tenant_id)["slot"]
    assert chat(client, entry.memory_id).memory["digest"] == entry.adapter_digest
    assert service.operate("unload", entry.memory_id).status_code == 200
    assert entry.adapter_digest not in _report(service, tenant_id)["slot"]
    assert httpx.post(f"{service.worker.url}/v1/load_lora_adapter", json={}, timeout=20).status_code == 404


def _report(service: Service, tenant_id: str) -> dict[str, Any]:
    with service.worker.http(tenant_id) as http:
        return dict(http.get("/v1/internal/residency").raise_for_status().json())


def _ends_in_order(worker: RunningWorker) -> None:
    assert stop_worker(worker) == 0, worker.log.read_text()[-2000:]


def _until(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.1)
