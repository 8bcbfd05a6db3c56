from __future__ import annotations

import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
import uvicorn
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


def test_a_worker_that_breaks_off_before_its_answer_begins_is_passed_over(
    gateway: Gateway, tenant: httpx.Client, stand_ins: dict[str, StandIn]
) -> None:
    asked = []

    class BreaksOff(socketserver.StreamRequestHandler):
        """Says that it is not ready where it is asked what it holds, and nothing where it is asked a question."""

        def handle(self) -> None:
            line = self.rfile.readline()
            if b"residency" in line:
                self.wfile.write(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                asked.append(line)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        (home,) = ask(tenant, stand_ins)
        announce_worker(gateway, home, url)
        assert sum(ask(tenant, stand_ins).values()) == 1
        assert asked
        server.shutdown()


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
