from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from core.errors import StorageError, Unavailable
from core.storage.object_store import JSON
from tests.integration.gateway.conftest import ADMIN_KEY, Gateway

TEXT = {"title": "Harbour", "text": "The harbour opens at six."}
CHAT = {
    "title": "A talk",
    "messages": [
        {"role": "user", "content": "My cat is called Miso."},
        {"role": "assistant", "content": "A fine name."},
    ],
    "collection": "cats",
    "metadata": {"source": "chat", "page": 3, "tags": ["a", None]},
}
NOTHING = {"memories": 0, "jobs": 0, "job_events": 0, "idempotency_keys": 0, "objects": 0}


def test_a_text_is_taken_in_with_a_job_and_its_object_is_stored(gateway: Gateway, tenant: httpx.Client) -> None:
    answer = tenant.post("/v1/memories", json=TEXT)

    assert answer.status_code == 202
    memory = answer.json()
    assert (memory["object"], memory["status"], memory["kind"]) == ("memory", "pending", "text")
    assert memory["context_tokens"] == 6
    job = tenant.get(f"/v1/jobs/{memory['job_id']}").json()
    assert (job["memory_id"], job["status"], job["progress"]) == (memory["id"], "queued", 0.0)
    (stored,) = gateway.services.store.list("")
    assert json.loads(gateway.services.store.get(stored.key)) == {"kind": "text", **TEXT}
    assert tenant.get(f"/v1/memories/{memory['id']}").json() == memory


def test_a_chat_is_taken_in_with_collection_and_metadata(gateway: Gateway, tenant: httpx.Client) -> None:
    memory = tenant.post("/v1/memories", json=CHAT).raise_for_status().json()

    assert (memory["kind"], memory["collection"], memory["metadata"]) == ("chat", "cats", CHAT["metadata"])
    (stored,) = gateway.services.store.list("")
    assert json.loads(gateway.services.store.get(stored.key))["messages"] == CHAT["messages"]


def test_text_beyond_ascii_is_stored_as_it_was_sent(gateway: Gateway, tenant: httpx.Client) -> None:
    text = "Größe: 三 metres, naïve 🐈 café"
    tenant.post("/v1/memories", json={"title": "Ünï", "text": text}).raise_for_status()

    (stored,) = gateway.services.store.list("")
    assert json.loads(gateway.services.store.get(stored.key))["text"] == text


REFUSED: dict[str, tuple[bytes | str, int, str]] = {
    "empty body": (b"", 400, "invalid_request"),
    "not json": (b"hello", 400, "invalid_request"),
    "not an object": (b"[1]", 400, "invalid_request"),
    "not utf-8": (b'{"title": "a", "text": "caf\xe9"}', 400, "not_utf8"),
    "utf-16": ('{"title": "a", "text": "b"}'.encode("utf-16"), 400, "not_utf8"),
    "half a surrogate pair": (b'{"title": "a", "text": "b \\ud800"}', 400, "invalid_request"),
    "nul in the text": (b'{"title": "a", "text": "b \\u0000"}', 400, "invalid_request"),
    "nul in the metadata": (b'{"title": "a", "text": "b", "metadata": {"k": ["\\u0000"]}}', 400, "invalid_request"),
    "no title": (b'{"text": "b"}', 400, "invalid_request"),
    "blank title": (b'{"title": "  ", "text": "b"}', 400, "invalid_request"),
    "line break in the title": (b'{"title": "a\\nb", "text": "b"}', 400, "invalid_request"),
    "long title": (json.dumps({"title": "a" * 201, "text": "b"}), 400, "invalid_request"),
    "neither text nor messages": (b'{"title": "a"}', 400, "invalid_request"),
    "both text and messages": (json.dumps({**CHAT, "text": "b"}), 400, "invalid_request"),
    "unknown field": (json.dumps({**TEXT, "colection": "x"}), 400, "invalid_request"),
    "text of another type": (b'{"title": "a", "text": 5}', 400, "invalid_request"),
    "unknown role": (b'{"title": "a", "messages": [{"role": "king", "content": "b"}]}', 400, "invalid_request"),
    "empty text": (b'{"title": "a", "text": ""}', 400, "empty_context"),
    "text without words": (b'{"title": "a", "text": " \\n\\t ... "}', 400, "empty_context"),
    "no messages": (b'{"title": "a", "messages": []}', 400, "empty_context"),
    "empty messages": (b'{"title": "a", "messages": [{"role": "user", "content": ""}]}', 400, "empty_context"),
    "too many tokens": (json.dumps({"title": "a", "text": "word " * 201}), 400, "context_too_long"),
    "too many characters": (json.dumps({"title": "a", "text": "w" * 20_000}), 400, "context_too_long"),
    "too many messages": (
        json.dumps({"title": "a", "messages": [{"role": "user", "content": "hi"}] * 40}),
        400,
        "context_too_long",
    ),
    "large metadata": (json.dumps({**TEXT, "metadata": {"k": "v" * 1100}}), 400, "invalid_request"),
    "infinite metadata": (b'{"title": "a", "text": "b", "metadata": {"k": 1e999}}', 400, "invalid_request"),
    "endless number": (b'{"title": "a", "text": "b", "metadata": {"k": ' + b"9" * 5000 + b"}}", 400, "invalid_request"),
    "deep nesting": (b'{"title": "a", "text": "b", "metadata": ' + b'{"k":' * 3000 + b"1" + b"}" * 3001, 400, ""),
    "control character in the collection": (json.dumps({**TEXT, "collection": "a\tb"}), 400, "invalid_request"),
    "large body": (json.dumps({"title": "a", "text": "word " * 20_000}), 413, "payload_too_large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_remembered_is_refused_clearly_and_leaves_nothing(
    name: str, gateway: Gateway, tenant: httpx.Client
) -> None:
    body, status, code = REFUSED[name]

    answer = tenant.post(
        "/v1/memories", content=body, headers={"Content-Type": "application/json", "Idempotency-Key": "k"}
    )

    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == (code or "invalid_request")
    assert gateway.left() == NOTHING
    assert tenant.post("/v1/memories", json=TEXT, headers={"Idempotency-Key": "k"}).status_code == 202


def test_a_body_without_an_end_is_cut_off_at_the_limit(gateway: Gateway, tenant: httpx.Client) -> None:
    sent = 0

    def chunks():  # noqa: ANN202
        nonlocal sent
        yield b'{"title": "a", "text": "'
        for _ in range(64):
            sent += 1
            yield b"word " * 10_000

    answer = tenant.post("/v1/memories", content=chunks())

    assert answer.status_code == 413
    assert gateway.left() == NOTHING


def test_a_compressed_body_is_refused(gateway: Gateway, tenant: httpx.Client) -> None:
    answer = tenant.post("/v1/memories", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert "Content-Encoding" in answer.json()["error"]["message"]


def test_an_error_never_repeats_the_text(gateway: Gateway, tenant: httpx.Client) -> None:
    answer = tenant.post("/v1/memories", json={"title": "a", "text": {"secret-passage": 1}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "text"
    assert "secret-passage" not in answer.text


def test_a_retry_with_the_same_key_and_body_gives_the_first_answer(gateway: Gateway, tenant: httpx.Client) -> None:
    first = tenant.post("/v1/memories", json=TEXT, headers={"Idempotency-Key": "a"})
    spelled_otherwise = json.dumps(dict(reversed(TEXT.items())), indent=3)
    again = tenant.post("/v1/memories", content=spelled_otherwise, headers={"Idempotency-Key": "a"})

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert gateway.left()["memories"] == gateway.left()["objects"] == 1


@pytest.mark.parametrize(
    "change", [{"text": "Other."}, {"title": "Other"}, {"collection": "other"}, {"metadata": {"a": 1}}]
)
def test_a_key_used_again_with_another_body_is_a_conflict(
    change: dict[str, object], gateway: Gateway, tenant: httpx.Client
) -> None:
    tenant.post("/v1/memories", json=TEXT, headers={"Idempotency-Key": "a"}).raise_for_status()

    answer = tenant.post("/v1/memories", json={**TEXT, **change}, headers={"Idempotency-Key": "a"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert gateway.left()["objects"] == 1


def test_a_key_belongs_to_its_tenant(gateway: Gateway, tenant: httpx.Client, other_tenant: httpx.Client) -> None:
    mine = tenant.post("/v1/memories", json=TEXT, headers={"Idempotency-Key": "a"}).json()
    theirs = other_tenant.post("/v1/memories", json={**TEXT, "text": "Other."}, headers={"Idempotency-Key": "a"})
    assert theirs.status_code == 202
    assert theirs.json()["id"] != mine["id"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "a\tb"])
def test_a_key_that_is_none_is_refused(key: str, gateway: Gateway, tenant: httpx.Client) -> None:
    answer = tenant.post("/v1/memories", json=TEXT, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert gateway.left() == NOTHING


def test_concurrent_duplicates_make_one_memory_and_leave_one_object(gateway: Gateway, tenant: httpx.Client) -> None:
    def send(_: int) -> httpx.Response:
        return tenant.post("/v1/memories", json=TEXT, headers={"Idempotency-Key": "a"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    left = gateway.left()
    assert (left["memories"], left["jobs"], left["objects"]) == (1, 1, 1)


def test_concurrent_duplicates_with_two_bodies_make_the_first_and_refuse_the_other(
    gateway: Gateway, tenant: httpx.Client
) -> None:
    def send(number: int) -> int:
        body = {**TEXT, "text": f"Body {number % 2}"}
        return tenant.post("/v1/memories", json=body, headers={"Idempotency-Key": "a"}).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, range(12)))

    assert sorted(set(statuses)) == [202, 409]
    assert gateway.left()["memories"] == gateway.left()["objects"] == 1


def test_a_full_backlog_says_when_to_come_back_and_leaves_nothing(gateway: Gateway, tenant: httpx.Client) -> None:
    for _ in range(5):
        tenant.post("/v1/memories", json=TEXT).raise_for_status()

    answer = tenant.post("/v1/memories", json=TEXT)

    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "backlog_full")
    assert int(answer.headers["Retry-After"]) > 0
    assert gateway.left()["memories"] == gateway.left()["objects"] == 5


def test_an_object_store_that_fails_is_a_503_and_leaves_nothing(
    gateway: Gateway, tenant: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = gateway.services.store
    put = store.put

    def put_and_time_out(key: str, data: bytes, content_type: str = JSON) -> None:
        put(key, data, content_type)
        raise StorageError("timed out at bucket of the innermost secrets")

    monkeypatch.setattr(store, "put", put_and_time_out)
    answer = tenant.post("/v1/memories", json=TEXT)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_error")
    assert "innermost" not in answer.text
    assert "Retry-After" in answer.headers
    assert gateway.left() == NOTHING


def test_a_base_that_is_not_prepared_is_a_503(
    gateway: Gateway, tenant: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.services.base, "_base", None)
    answer = tenant.post("/v1/memories", json=TEXT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, Unavailable.code)
    assert "prepared" in answer.json()["error"]["message"]
    assert gateway.left() == NOTHING


def test_a_fault_of_ours_is_a_500_that_tells_nothing(
    gateway: Gateway, tenant: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("gateway.intake.admit", fail)
    answer = tenant.post("/v1/memories", json=TEXT)

    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "hunter2" not in answer.text
    assert answer.headers["X-Request-Id"].startswith("req_")
    assert gateway.left() == NOTHING


def test_admissions_are_counted_by_outcome(gateway: Gateway, tenant: httpx.Client) -> None:
    outcomes = ("accepted", "replayed", "empty_context")
    before = _admitted(gateway)
    tenant.post("/v1/memories", json=TEXT, headers={"Idempotency-Key": "a"})
    tenant.post("/v1/memories", json=TEXT, headers={"Idempotency-Key": "a"})
    tenant.post("/v1/memories", json={**TEXT, "text": ""})
    after = _admitted(gateway)
    assert {outcome: after[outcome] - before.get(outcome, 0) for outcome in outcomes} == dict.fromkeys(outcomes, 1)


def test_the_admin_key_remembers_nothing(gateway: Gateway) -> None:
    with gateway.client(ADMIN_KEY) as admin:
        assert admin.post("/v1/memories", json=TEXT).status_code == 401


def _admitted(gateway: Gateway) -> dict[str, float]:
    (family,) = gateway.services.metrics.admitted.collect()
    return {sample.labels["outcome"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
