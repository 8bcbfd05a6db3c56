"""Many memories in one request, over a database and a store that may fail midway."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from tokenizers import Tokenizer, models, pre_tokenizers

from core.base_model.description import BaseDescription
from core.errors import BacklogFull, IdempotencyConflict, LatentBankError, QuotaExceeded, StorageError
from core.settings import LimitSettings, RecipeSettings
from core.storage.memory import MemoryStore
from core.truth.audit import UNNAMED
from core.truth.database import Database
from core.truth.memories import list_memories
from core.truth.records import Usage
from core.truth.usage import usage_of
from gateway.base_model import BaseModel
from gateway.bulk import BulkIntake, Outcome
from gateway.intake import Admission
from tests.fixtures.truth import add_tenant
from tests.integration.gateway.conftest import Gateway

URL = "/v1/memories/batch"
NOTHING = {"memories": 0, "jobs": 0, "job_events": 0, "idempotency_keys": 0, "objects": 0}
AWAY = OperationalError("commit", {}, Exception("server closed the connection"))


def note(name: str, **more: Any) -> dict[str, Any]:
    return {"title": name, "text": f"{name} opens at six.", **more}


# Over HTTP


def test_every_memory_of_a_batch_has_a_job_and_its_object(gateway: Gateway, tenant: httpx.Client) -> None:
    answer = tenant.post(URL, json={"memories": [note("a"), note("b", collection="c", metadata={"n": 1}), note("a")]})

    assert answer.status_code == 200
    batch = answer.json()
    assert (batch["object"], batch["accepted"], batch["replayed"], batch["refused"]) == ("memory.batch", 3, 0, 0)
    assert [(one["index"], one["status"]) for one in batch["data"]] == [(i, "accepted") for i in range(3)]
    for one, title in zip(batch["data"], "aba", strict=True):
        assert one["memory"]["title"] == title
        assert tenant.get(f"/v1/memories/{one['memory']['id']}").json() == one["memory"]
        job = tenant.get(f"/v1/jobs/{one['memory']['job_id']}").json()
        assert (job["memory_id"], job["status"]) == (one["memory"]["id"], "queued")
        assert [event["type"] for event in tenant.get(f"/v1/jobs/{job['id']}/events").json()["data"]] == ["state"]
    assert batch["data"][1]["memory"]["metadata"] == {"n": 1}
    stored = [json.loads(gateway.services.store.get(info.key))["title"] for info in gateway.services.store.list("")]
    assert sorted(stored) == ["a", "a", "b"]


def test_what_can_not_be_taken_is_refused_by_itself_and_leaves_nothing(gateway: Gateway, tenant: httpx.Client) -> None:
    items = [
        note("good"),
        {"title": "both", "text": "x", "messages": []},
        {"title": "empty", "text": "..."},
        {"title": "long", "text": "word " * 300},
        "no object",
        note("odd", surprise=1),
        note("bad key", idempotency_key="with space"),
        note("also good"),
    ]
    batch = tenant.post(URL, json={"memories": items}).raise_for_status().json()

    assert (batch["accepted"], batch["refused"]) == (2, 6)
    codes = [one["error"] and one["error"]["code"] for one in batch["data"]]
    assert codes == [
        None,
        "invalid_request",
        "empty_context",
        "context_too_long",
        "invalid_request",
        "invalid_request",
        "invalid_request",
        None,
    ]
    assert [one["error"] and one["error"]["param"] for one in batch["data"]][5:7] == ["surprise", "idempotency_key"]
    assert all((one["memory"] is None) == (one["status"] == "refused") for one in batch["data"])
    assert gateway.left() == NOTHING | {"memories": 2, "jobs": 2, "job_events": 2, "objects": 2}


def test_a_batch_sent_again_with_its_keys_makes_nothing_twice(gateway: Gateway, tenant: httpx.Client) -> None:
    items = [note("a", idempotency_key="k-a"), note("b", idempotency_key="k-b"), note("b", idempotency_key="k-b")]
    first = tenant.post(URL, json={"memories": items}).raise_for_status().json()
    left = gateway.left()
    again = tenant.post(URL, json={"memories": items}).raise_for_status().json()

    assert [one["status"] for one in first["data"]] == ["accepted", "accepted", "replayed"]
    assert [one["status"] for one in again["data"]] == ["replayed"] * 3
    assert [one["memory"] for one in again["data"]] == [one["memory"] for one in first["data"]]
    assert gateway.left() == left == {"memories": 2, "jobs": 2, "job_events": 2, "idempotency_keys": 2, "objects": 2}
    alone = tenant.post("/v1/memories", json=note("a"), headers={"Idempotency-Key": "k-a"})
    assert alone.json()["id"] == first["data"][0]["memory"]["id"]


def test_a_key_with_another_body_is_refused_within_a_batch_and_after_it(
    gateway: Gateway, tenant: httpx.Client, other_tenant: httpx.Client
) -> None:
    batch = {"memories": [note("a", idempotency_key="k"), note("b", idempotency_key="k")]}
    first = tenant.post(URL, json=batch).raise_for_status().json()
    later = tenant.post(URL, json={"memories": [note("c", idempotency_key="k")]}).raise_for_status().json()
    foreign = other_tenant.post(URL, json={"memories": [note("c", idempotency_key="k")]}).raise_for_status().json()

    assert first["data"][1]["error"]["code"] == later["data"][0]["error"]["code"] == "idempotency_conflict"
    assert foreign["accepted"] == 1
    assert gateway.left()["objects"] == gateway.left()["memories"] == 2


def test_what_is_over_the_backlog_is_refused_and_told_when_to_come_back(gateway: Gateway, tenant: httpx.Client) -> None:
    answer = tenant.post(URL, json={"memories": [note(str(number)) for number in range(7)]})

    batch = answer.json()
    assert [one["status"] for one in batch["data"]] == ["accepted"] * 5 + ["refused"] * 2
    assert batch["data"][6]["error"]["code"] == "backlog_full"
    assert int(answer.headers["Retry-After"]) > 0
    assert gateway.left()["objects"] == 5


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"memories": []}, 400, "invalid_request"),
        ({"memories": [note("a")] * 1001}, 400, "invalid_request"),
        ({"memories": {}}, 400, "invalid_request"),
        ({"memories": [note("a")], "more": 1}, 400, "invalid_request"),
    ],
)
def test_a_body_that_is_no_batch_is_refused_as_a_whole(
    gateway: Gateway, tenant: httpx.Client, body: Any, status: int, code: str
) -> None:
    answer = tenant.post(URL, json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert gateway.left() == NOTHING


def test_a_batch_needs_a_key_and_is_the_tenant_s_own(gateway: Gateway, other_tenant: httpx.Client) -> None:
    with gateway.client() as nobody:
        assert nobody.post(URL, json={"memories": [note("a")]}).status_code == 401
    with gateway.client(gateway.new_tenant("mill")) as tenant:
        made = tenant.post(URL, json={"memories": [note("a")]}).raise_for_status().json()["data"][0]["memory"]
    assert other_tenant.get(f"/v1/memories/{made['id']}").status_code == 404


# Without HTTP, on both databases


def test_an_admission_refused_midway_keeps_what_came_before_it(truth: Database) -> None:
    store, tenant = MemoryStore(), add_tenant(truth)
    made = intake(truth, store, backlog=2).take_in(
        tenant.id,
        [note("a", idempotency_key="a"), note("b"), note("a", idempotency_key="a"), note("c"), note("d")],
    )

    assert [kind(one) for one in made] == [True, True, False, BacklogFull, BacklogFull]
    assert titles(truth, tenant.id) == ["a", "b"]
    assert len(list(store.list(""))) == 2


def test_what_is_over_a_quota_is_refused_and_what_fits_after_it_is_taken(truth: Database) -> None:
    store, tenant = MemoryStore(), add_tenant(truth)
    size = len(json.dumps({"kind": "text", **note("a")}, sort_keys=True))
    into = intake(truth, store, bytes_per_tenant=2 * size + 5)
    made = into.take_in(tenant.id, [note("a"), note("b" * 50), note("c"), note("d")])

    assert [kind(one) for one in made] == [True, QuotaExceeded, True, QuotaExceeded]
    assert titles(truth, tenant.id) == ["a", "c"]
    assert len(list(store.list(""))) == 2
    with truth.read() as connection:
        assert usage_of(connection, tenant.id) == Usage(2, 2 * size)


def test_an_object_that_can_not_be_stored_refuses_its_memory_alone(truth: Database) -> None:
    class Full(MemoryStore):
        def put(self, key: str, data: bytes, content_type: str = "") -> None:
            if b'"title": "b"' in data:
                raise StorageError("full")
            super().put(key, data, content_type)

    store, tenant = Full(), add_tenant(truth)
    made = intake(truth, store).take_in(tenant.id, [note("a"), note("b"), note("c")])

    assert [kind(one) for one in made] == [True, StorageError, True]
    assert titles(truth, tenant.id) == ["a", "c"]
    assert len(list(store.list(""))) == 2


def test_a_transaction_that_fails_leaves_no_object(truth: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tenant = MemoryStore(), add_tenant(truth)
    monkeypatch.setattr(truth, "begin", failing(truth, after_commit=False))
    with pytest.raises(OperationalError):
        intake(truth, store).take_in(tenant.id, [note("a"), note("b")])

    assert (titles(truth, tenant.id), list(store.list(""))) == ([], [])


def test_a_commit_whose_reply_is_lost_is_found_again(truth: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tenant = MemoryStore(), add_tenant(truth)
    monkeypatch.setattr(truth, "begin", failing(truth, after_commit=True))
    made = intake(truth, store, backlog=1).take_in(tenant.id, [note("a"), note("b")])

    assert [kind(one) for one in made] == [True, BacklogFull]
    assert titles(truth, tenant.id) == ["a"]
    assert len(list(store.list(""))) == 1


def test_where_the_database_can_not_say_whether_it_committed_the_objects_stay(
    truth: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, tenant = MemoryStore(), add_tenant(truth)
    monkeypatch.setattr(truth, "begin", failing(truth, after_commit=True))
    with monkeypatch.context() as away:
        away.setattr(truth, "read", failing(truth, after_commit=False))
        with pytest.raises(OperationalError):
            intake(truth, store).take_in(tenant.id, [note("a"), note("b")])

    assert titles(truth, tenant.id) == ["a", "b"]
    assert len(list(store.list(""))) == 2


def test_keys_used_before_and_conflicts_are_told_item_by_item(truth: Database) -> None:
    store, tenant = MemoryStore(), add_tenant(truth)
    into = intake(truth, store)
    (first,) = into.take_in(tenant.id, [note("a", idempotency_key="k")])
    made = into.take_in(tenant.id, [note("b", idempotency_key="k"), note("a", idempotency_key="k"), note("c")])

    assert [kind(one) for one in made] == [IdempotencyConflict, False, True]
    assert isinstance(first, Admission)
    assert isinstance(made[1], Admission)
    assert (made[1].memory, made[1].job) == (first.memory, first.job)
    assert len(list(store.list(""))) == 2


def intake(
    database: Database, store: MemoryStore, backlog: int = 100, bytes_per_tenant: int | None = None
) -> BulkIntake:
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    base = BaseModel(BaseDescription("tiny", "tiny", "", "sha256:0", 2048, (1, 2)), tokenizer)
    limits = LimitSettings(backlog_per_tenant=backlog, bytes_per_tenant=bytes_per_tenant)
    return BulkIntake(database, store, base, limits, RecipeSettings(), UNNAMED)


def kind(outcome: Outcome) -> bool | type[LatentBankError]:
    """Whether it was made by this call, or the kind of error."""
    return type(outcome) if isinstance(outcome, LatentBankError) else outcome.created


def titles(database: Database, tenant_id: str) -> list[str]:
    with database.read() as connection:
        return sorted(memory.title for memory in list_memories(connection, tenant_id))


def failing(database: Database, *, after_commit: bool) -> Callable[[], AbstractContextManager[Connection]]:
    begin = database.begin

    @contextmanager
    def fails() -> Iterator[Connection]:
        with begin() as connection:
            yield connection
            if not after_commit:
                raise AWAY
        raise AWAY

    return fails
