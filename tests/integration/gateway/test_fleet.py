from __future__ import annotations

import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from core.truth.tables import memories, tenants
from core.truth.workers import withdraw
from gateway.holdings import keys_of
from tests.integration.gateway.conftest import TOKEN, Gateway, announce_worker
from tests.integration.gateway.inference_stand_in import StandIn
from tests.integration.gateway.servers import RunningServer, wait_until

QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "When does it open?"}]}
DIGEST = "sha256:" + "ab" * 32
GONE = "http://127.0.0.1:9"


@pytest.fixture
def stand_ins(gateway: Gateway) -> Iterator[dict[str, StandIn]]:
    """Four announced workers by id."""
    with ExitStack() as running:
        found = {}
        for number in range(4):
            stand_in = StandIn(TOKEN)
            server = running.enter_context(RunningServer(uvicorn.Config(stand_in.app, log_config=None)))
            announce_worker(gateway, f"worker_fleet_{number}", server.url)
            found[f"worker_fleet_{number}"] = stand_in
        yield found


def remember(gateway: Gateway, tenant: httpx.Client) -> None:
    """The tenant's bank has one ready memory, with the adapter `DIGEST`."""
    body = {"title": "Harbour", "text": "The harbour opens at six."}
    memory_id = tenant.post("/v1/memories", json=body).raise_for_status().json()["id"]
    with gateway.database.begin() as connection:
        ready = {"status": "ready", "adapter_digest": DIGEST, "version": 1, "manifest_key": "m"}
        connection.execute(update(memories).where(memories.c.id == memory_id).values(ready))
        connection.execute(update(tenants).values(bank_revision=tenants.c.bank_revision + 1))


def ask(tenant: httpx.Client, stand_ins: dict[str, StandIn], times: int = 1) -> Counter[str]:
    """Who answered."""
    before = {id_: len(one.requests) for id_, one in stand_ins.items()}
    for _ in range(times):
        assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 200
    return +Counter({id_: len(one.requests) - before[id_] for id_, one in stand_ins.items()})


def comes_to(tenant: httpx.Client, stand_ins: dict[str, StandIn], worker_id: str) -> None:
    wait_until(lambda: ask(tenant, stand_ins) == {worker_id: 1})


def others(stand_ins: dict[str, StandIn], *but: str) -> list[str]:
    return [id_ for id_ in stand_ins if id_ not in but]


def test_the_worker_that_holds_the_bank_is_preferred_and_a_full_one_spills(
    gateway: Gateway, tenant: httpx.Client, stand_ins: dict[str, StandIn]
) -> None:
    remember(gateway, tenant)
    (home,) = ask(tenant, stand_ins, 3)
    holder = others(stand_ins, home)[0]
    stand_ins[holder].held = (DIGEST,)
    comes_to(tenant, stand_ins, holder)
    assert ask(tenant, stand_ins, 5) == {holder: 5}
    stand_ins[holder].running = 16
    comes_to(tenant, stand_ins, home)
    stand_ins[holder].running = 0
    comes_to(tenant, stand_ins, holder)


def test_another_tenants_adapters_draw_nobody(
    gateway: Gateway, tenant: httpx.Client, other_tenant: httpx.Client, stand_ins: dict[str, StandIn]
) -> None:
    remember(gateway, tenant)
    (home,) = ask(other_tenant, stand_ins)
    (mine,) = ask(tenant, stand_ins)
    holder = others(stand_ins, home, mine)[0]
    stand_ins[holder].held = (DIGEST,)
    comes_to(tenant, stand_ins, holder)
    assert ask(other_tenant, stand_ins, 3) == {home: 3}


def test_a_holder_that_dies_is_passed_over_and_is_asked_no_more(
    gateway: Gateway, tenant: httpx.Client, stand_ins: dict[str, StandIn]
) -> None:
    remember(gateway, tenant)
    (home,) = ask(tenant, stand_ins)
    holder = others(stand_ins, home)[0]
    stand_ins[holder].held = (DIGEST,)
    comes_to(tenant, stand_ins, holder)
    announce_worker(gateway, holder, GONE)
    assert ask(tenant, stand_ins, 3) == {home: 3}
    assert holder in gateway.services.inference._fleet.known(keys_of([DIGEST]), 0.0).lost


def test_a_worker_that_comes_later_is_noticed_and_one_that_leaves_is_forgotten(
    gateway: Gateway, tenant: httpx.Client, stand_ins: dict[str, StandIn]
) -> None:
    remember(gateway, tenant)
    (home,) = ask(tenant, stand_ins)
    newcomer = StandIn(TOKEN)
    newcomer.held = (DIGEST,)
    with RunningServer(uvicorn.Config(newcomer.app, log_config=None)) as server:
        announce_worker(gateway, "worker_newcomer", server.url)
        everybody = {**stand_ins, "worker_newcomer": newcomer}
        comes_to(tenant, everybody, "worker_newcomer")
        with gateway.database.begin() as connection:
            withdraw(connection, "worker_newcomer")
        assert ask(tenant, everybody, 3) == {home: 3}


@contextmanager
def breaking_off() -> Iterator[tuple[str, list[bytes]]]:
    """A worker's address, and the requests there: it is never ready, and breaks off where it is asked a question."""
    asked: list[bytes] = []

    class BreaksOff(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline()
            if b"residency" in line:
                self.wfile.write(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                asked.append(line)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_a_worker_that_breaks_off_before_its_answer_begins_is_passed_over(
    gateway: Gateway, tenant: httpx.Client, stand_ins: dict[str, StandIn]
) -> None:
    with breaking_off() as (url, asked):
        (home,) = ask(tenant, stand_ins)
        announce_worker(gateway, home, url)
        assert sum(ask(tenant, stand_ins).values()) == 1
        assert asked


@pytest.mark.parametrize("reporting", [1.0, None])
def test_a_worker_that_reports_slowly_or_oddly_holds_up_no_other(
    gateway: Gateway, tenant: httpx.Client, stand_ins: dict[str, StandIn], reporting: float | None
) -> None:
    remember(gateway, tenant)
    (home,) = ask(tenant, stand_ins)
    odd, holder, later = others(stand_ins, home)
    stand_ins[odd].reporting = reporting
    stand_ins[holder].held = (DIGEST,)
    comes_to(tenant, stand_ins, holder)
    stand_ins[holder].held, stand_ins[later].held = (), (DIGEST,)
    comes_to(tenant, stand_ins, later)


@pytest.fixture
def listed_for_long(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of workers is used until one of them fails."""
    monkeypatch.setattr(gateway.services.inference._announced, "_seconds", 3600.0)


def test_a_worker_that_fails_is_passed_over_at_once_and_ends_the_list_that_it_is_on(
    gateway: Gateway, tenant: httpx.Client, stand_ins: dict[str, StandIn], listed_for_long: None
) -> None:
    announced = gateway.services.inference._announced
    announced.doubt()
    (home,) = ask(tenant, stand_ins)
    with breaking_off() as (url, asked):
        announce_worker(gateway, home, url)
        assert ask(tenant, stand_ins) == {home: 1}, "its old address is still on the list"
        announced.doubt()
        assert sum(ask(tenant, stand_ins).values()) == 1
        assert asked
        with gateway.database.begin() as connection:
            withdraw(connection, home)
        assert home not in announced.workers()
    announced.doubt()


def test_without_workers_nothing_is_remembered_so_the_first_is_asked_at_once(
    gateway: Gateway, tenant: httpx.Client, listed_for_long: None
) -> None:
    gateway.services.inference._announced.doubt()
    assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 503
    first = StandIn(TOKEN)
    with RunningServer(uvicorn.Config(first.app, log_config=None)) as server:
        announce_worker(gateway, "worker_first", server.url)
        assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 200
    gateway.services.inference._announced.doubt()


def test_routing_is_measured(gateway: Gateway, tenant: httpx.Client, stand_ins: dict[str, StandIn]) -> None:
    before = routing(gateway)
    (home,) = ask(tenant, stand_ins)
    remember(gateway, tenant)
    holder = others(stand_ins, home)[0]
    stand_ins[holder].held = (DIGEST,)
    comes_to(tenant, stand_ins, holder)
    announce_worker(gateway, holder, GONE)
    wait_until(lambda: (routing(gateway) - before)["residency_polls unreachable"])
    ask(tenant, stand_ins)
    for stand_in in stand_ins.values():
        stand_in.busy = 429
    assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 429
    with gateway.database.begin() as connection:
        for worker_id in stand_ins:
            withdraw(connection, worker_id)
    assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 503
    found = routing(gateway) - before
    for name in (
        "attempts answered",
        "attempts busy",
        "routed held",
        "routed hashed",
        "unrouted all_busy",
        "unrouted no_worker",
        "residency_polls reported",
    ):
        assert found[name] > 0, name
    assert found["attempts answered"] == sum(found[f"routed {why}"] for why in ("held", "spilled", "hashed"))


def routing(gateway: Gateway) -> Counter[str]:
    """What the gateway has counted of its routing so far, by metric and label."""
    scraped = httpx.get(f"{gateway.url}/metrics", trust_env=False).text
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(scraped):
        for sample in family.samples:
            if sample.name.endswith("_total") and set(sample.labels) & {"outcome", "reason"}:
                name = sample.name.removeprefix("latentbank_gateway_").removesuffix("_total")
                found[f"{name} {next(iter(sample.labels.values()))}"] += int(sample.value)
    return found
