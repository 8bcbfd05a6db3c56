from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from core.errors import SetupError
from core.ids import new_id
from core.settings import ServingSettings, Settings
from core.truth.database import Database
from core.truth.records import BankEntry
from tests.fixtures.ports import free_port
from tests.unit.workers.inference.conftest import Stand
from workers.inference.api.admin import MOST_BODY_BYTES, create_admin_app
from workers.inference.api.listener import bind
from workers.inference.api.server import Worker
from workers.inference.process import serve
from workers.inference.tiers.pins import Pins

KEY = "admin-key-of-the-test"
HEADERS = {"Authorization": f"Bearer {KEY}"}
TEXT = "Velmora is a town."


@pytest.fixture
def pins(stand: Stand, database: Database) -> Pins:
    return Pins(database, stand.banks, stand.residency, "worker_1")


@pytest.fixture
def admin(stand: Stand, pins: Pins) -> Iterator[TestClient]:
    stand.engine.start()
    worker = Worker(stand.registry, SecretStr("internal"), stand.service, stand.engine, pins)
    yield TestClient(create_admin_app(worker, SecretStr(KEY)), headers=HEADERS)
    stand.engine.stop()


def load(admin: TestClient, name: str, **fields: Any) -> httpx.Response:
    return admin.post("/v1/load_lora_adapter", json={"lora_name": name, **fields})


def unload(admin: TestClient, name: str, **fields: Any) -> httpx.Response:
    return admin.post("/v1/unload_lora_adapter", json={"lora_name": name, **fields})


def publish(stand: Stand, seed: int = 1, **fields: Any) -> BankEntry:
    return stand.publisher.publish(stand.publisher.tenant(), "Velmora", TEXT, seed=seed, **fields)


def message(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer guess"}, {"Authorization": "Bearer "}, {"Authorization": f"Basic {KEY}"}]
)
def test_only_the_admin_key_opens_the_port(stand: Stand, admin: TestClient, headers: dict[str, str]) -> None:
    entry = publish(stand)
    app = TestClient(admin.app, headers=headers)
    for answer in (load(app, entry.memory_id), unload(app, entry.memory_id)):
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert not stand.residency.holds(entry.adapter_digest)


def test_a_loaded_memory_is_in_a_slot_and_in_ram_and_stays_there(stand: Stand, admin: TestClient) -> None:
    entry = publish(stand)
    answer = load(admin, entry.memory_id)
    assert (answer.status_code, answer.text) == (
        200,
        f"Success: LoRA adapter '{entry.memory_id}' added successfully.",
    )
    assert answer.headers["content-type"].startswith("text/plain")
    slot = stand.residency.slot_of(entry.adapter_digest)
    assert slot is not None
    assert any(bool(layer.a[slot].any()) for layer in stand.packed.layers.values())
    for seed in range(2, 7):
        answers_once(stand, seed)
    assert stand.residency.slot_of(entry.adapter_digest) == slot
    assert entry.adapter_digest in stand.residency._ram.digests


def answers_once(stand: Stand, seed: int) -> None:
    """Another tenant's memory answers, which takes a slot and RAM."""
    tenant = stand.publisher.tenant()
    entry = stand.publisher.publish(tenant, "Sark", TEXT, seed=seed)
    admitted = stand.service.admit(stand.question(tenant, "What?", model=entry.memory_id))
    lease = stand.residency.acquire({c.member.digest: c.adapter for c in admitted.candidates})
    assert lease is not None
    lease.release()


def test_loading_twice_is_refused_as_vllm_does_unless_it_is_in_place(
    stand: Stand, admin: TestClient, pins: Pins
) -> None:
    entry = publish(stand)
    assert load(admin, entry.memory_id, lora_path=entry.memory_id).status_code == 200
    again = load(admin, entry.memory_id)
    assert again.status_code == 400
    assert "has already been loaded" in message(again)
    assert "load_inplace" in message(again)
    assert load(admin, entry.memory_id, load_inplace=True).status_code == 200
    assert pins.memory_ids == (entry.memory_id,)


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_name": "../../etc/passwd"},
        {"lora_name": "/srv/adapters/a"},
        {"lora_name": "https://example.org/a"},
        {"lora_name": "sql-lora"},
        {"lora_name": ""},
        {"lora_name": "mem_" + "a" * 26 + "\n"},
        {"lora_name": "mem_" + "a" * 26 + "/../x"},
        {"lora_name": 7},
        {"lora_name": "mem_" + "a" * 26, "lora_path": "/srv/adapters/a"},
        {"lora_name": "mem_" + "a" * 26, "lora_path": "../a"},
        {"lora_name": "mem_" + "a" * 26, "lora_path": "s3://bucket/a"},
        {"lora_name": "mem_" + "a" * 26, "lora_path": "mem_" + "b" * 26},
        {"lora_name": "mem_" + "a" * 26, "lora_path": ""},
        {"lora_name": "mem_" + "a" * 26, "is_3d_lora_weight": True},
        {"lora_name": "mem_" + "a" * 26, "trust_remote_code": True},
        {},
        [],
    ],
)
def test_paths_urls_and_what_is_not_known_are_a_400_that_says_why(admin: TestClient, fields: Any) -> None:
    answer = admin.post("/v1/load_lora_adapter", json=fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith(".")
    assert "/srv" not in error["message"]


def test_a_body_that_is_too_large_or_no_json_is_refused(admin: TestClient) -> None:
    large = load(admin, "mem_" + "a" * 26, lora_path="x" * MOST_BODY_BYTES)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "payload_too_large")
    assert admin.post("/v1/load_lora_adapter", content=b'{"lora_name": "\xff').status_code == 400


def test_what_can_not_serve_is_not_loaded_and_the_status_says_why(stand: Stand, admin: TestClient, pins: Pins) -> None:
    tenant = stand.publisher.tenant()
    waiting, _ = stand.publisher.admit(tenant, "Waits")
    foreign = publish(stand, 2, base_digest="sha256:" + "0" * 64)
    deleted = stand.publisher.publish(tenant, "Gone", TEXT, seed=3)
    stand.publisher.delete(deleted, tenant)
    found = {
        "unknown": load(admin, new_id("mem")),
        "waiting": load(admin, waiting),
        "foreign": load(admin, foreign.memory_id),
        "deleted": load(admin, deleted.memory_id),
    }
    assert {name: answer.status_code for name, answer in found.items()} == {
        "unknown": 404,
        "waiting": 409,
        "foreign": 409,
        "deleted": 404,
    }
    assert found["foreign"].json()["error"]["code"] == "wrong_base"
    assert pins.memory_ids == ()


def test_one_slot_stays_free_for_others(stand: Stand, admin: TestClient) -> None:
    first, second = publish(stand, 1), publish(stand, 2)
    assert load(admin, first.memory_id).status_code == 200
    refused = load(admin, second.memory_id)
    assert (refused.status_code, "one has to stay free" in message(refused)) == (409, True)
    assert unload(admin, first.memory_id).status_code == 200
    assert load(admin, second.memory_id).status_code == 200


def test_unloading_reaches_slot_and_ram_at_once_where_nobody_uses_it(stand: Stand, admin: TestClient) -> None:
    entry = publish(stand)
    load(admin, entry.memory_id)
    slot = stand.residency.slot_of(entry.adapter_digest)
    answer = unload(admin, entry.memory_id)
    assert (answer.status_code, answer.text) == (
        200,
        f"Success: LoRA adapter '{entry.memory_id}' removed successfully.",
    )
    assert not stand.residency.holds(entry.adapter_digest)
    assert not any(bool(layer.a[slot].any()) for layer in stand.packed.layers.values())
    assert stand.metric("latentbank_adapter_evictions_total", tier="slot", reason="unloaded") == 1
    missing = unload(admin, entry.memory_id)
    assert (missing.status_code, "cannot be found" in message(missing)) == (404, True)
    assert unload(admin, entry.memory_id, lora_int_id=1).status_code == 400


def test_unloading_leaves_a_slot_in_use_alone_until_its_last_request_gives_it_back(
    stand: Stand, admin: TestClient, pins: Pins
) -> None:
    entry = publish(stand)
    load(admin, entry.memory_id)
    wanted = pins._look_up(entry.memory_id)[1]
    leases = [stand.residency.acquire({entry.adapter_digest: stand.residency.load(wanted)}) for _ in range(2)]
    slot = stand.residency.slot_of(entry.adapter_digest)
    before = {name: layer.a[slot].clone() for name, layer in stand.packed.layers.items()}
    assert unload(admin, entry.memory_id).status_code == 200
    for lease in leases:
        assert lease is not None
        assert lease.slot(entry.adapter_digest) == slot
        assert all(bool((layer.a[slot] == before[name]).all()) for name, layer in stand.packed.layers.items())
        lease.release()
    assert stand.residency.slot_of(entry.adapter_digest) is None
    assert not any(bool(layer.a[slot].any()) for layer in stand.packed.layers.values())


def test_loading_again_what_is_still_in_use_after_unloading_keeps_it(
    stand: Stand, admin: TestClient, pins: Pins
) -> None:
    entry = publish(stand)
    load(admin, entry.memory_id)
    wanted = pins._look_up(entry.memory_id)[1]
    lease = stand.residency.acquire({entry.adapter_digest: stand.residency.load(wanted)})
    unload(admin, entry.memory_id)
    assert load(admin, entry.memory_id).status_code == 200
    assert lease is not None
    lease.release()
    assert stand.residency.slot_of(entry.adapter_digest) is not None


def test_a_worker_whose_base_still_loads_is_a_503(stand: Stand) -> None:
    loading = create_admin_app(Worker(stand.registry, SecretStr("internal")), SecretStr(KEY))
    assert load(TestClient(loading, headers=HEADERS), new_id("mem")).status_code == 503


@pytest.mark.parametrize("key", [None, ""])
def test_without_an_admin_key_there_is_no_port(tmp_path: Path, key: str | None) -> None:
    with pytest.raises(SetupError, match="LATENTBANK_ADMIN_KEY"):
        serve(settings_of(tmp_path, free_port(), key))


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as other, pytest.raises(SetupError, match="Nothing can listen"):
        serve(settings_of(tmp_path, other.getsockname()[1], KEY))
    assert not list(tmp_path.iterdir())


def settings_of(directory: Path, port: int, key: str | None) -> Settings:
    serving = ServingSettings(admin_port=port)
    return Settings(_env_file=None, data_dir=directory, internal_token="internal", admin_key=key, serving=serving)
