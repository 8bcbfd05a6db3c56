"""Whom a gateway sends questions: workers whose announcement is signed, for as long as a question may take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from core.internal import PROOF
from core.settings import Settings
from core.truth.workers import announce, withdraw
from gateway.server import server_config
from gateway.services import open_services
from tests.fixtures.canary import listening_canary
from tests.fixtures.internal import access
from tests.integration.gateway.conftest import TOKEN, Gateway, announce_worker
from tests.integration.gateway.inference_stand_in import StandIn
from tests.integration.gateway.servers import RunningServer, wait_until

QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "When does it open?"}]}


def write_row(gateway: Gateway, worker_id: str, url: str, proof: object) -> None:
    """As somebody would who has the database and not the token."""
    with gateway.database.begin() as connection:
        info = {"name": "tiny"} if proof is None else {"name": "tiny", PROOF: proof}
        announce(connection, worker_id, "inference", url, info, 60)


def reports(gateway: Gateway) -> float:
    return float(gateway.services.metrics.residency_polls.labels("reported")._value.get())


def test_a_worker_that_only_the_database_vouches_for_is_never_asked(
    gateway: Gateway, tenant: httpx.Client, inference: StandIn
) -> None:
    with listening_canary() as canary:
        stolen = access(TOKEN, "worker_stand_in").proof("http://127.0.0.1:1")
        for number, proof in enumerate(
            [
                *(None, "", 7, ["a"], "0" * 64),
                access("a guess", "worker_rogue_5").proof(canary.url),
                # Signed, but for another worker; for another address.
                access(TOKEN, "worker_other").proof(canary.url),
                access(TOKEN, "worker_rogue_7").proof("http://127.0.0.1:1"),
                stolen,
            ]
        ):
            write_row(gateway, f"worker_rogue_{number}", canary.url, proof)
        polled = reports(gateway)
        wait_until(lambda: reports(gateway) >= polled + 3)
        for _ in range(5):
            assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 200
            assert tenant.get("/v1/models").status_code == 200
        assert len(inference.requests) == 10
        with gateway.database.begin() as connection:
            withdraw(connection, "worker_stand_in")
        answer = tenant.post("/v1/chat/completions", json=QUESTION)
        assert answer.json()["error"]["message"] == "No inference worker is there right now; try again."
        assert canary.asked == []
        # That the canary would have been asked.
        announce_worker(gateway, "worker_rogue_0", canary.url)
        assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 503
        wait_until(lambda: any("/v1/chat/completions" in line for line in canary.asked))


def test_a_row_over_a_workers_own_can_not_move_its_questions(
    gateway: Gateway, tenant: httpx.Client, inference: StandIn
) -> None:
    with listening_canary() as canary:
        (own,) = gateway.services.trusted.workers()
        write_row(gateway, own.id, canary.url, own.info[PROOF])
        assert tenant.post("/v1/chat/completions", json=QUESTION).status_code == 503
        assert canary.asked == []


@contextmanager
def impatient(gateway: Gateway, seconds: float) -> Iterator[str]:
    """The address of a second gateway over the same truth, that gives workers so long to answer."""
    settings = gateway.services.settings
    patience = settings.gateway.model_copy(update={"answer_seconds": seconds})
    services = open_services(Settings(_env_file=None, **{**dict(settings), "gateway": patience}))
    with RunningServer(server_config(services.settings, services)) as server:
        yield server.url


def test_workers_have_so_long_to_answer_all_that_are_tried_together(
    gateway: Gateway, tenant: httpx.Client, inference: StandIn
) -> None:
    slow = {**QUESTION, "model": "slow"}
    other = StandIn(TOKEN)
    with (
        impatient(gateway, 0.5) as url,
        RunningServer(uvicorn.Config(other.app, log_config=None)) as server,
        httpx.Client(base_url=url, headers=tenant.headers, timeout=20, trust_env=False) as client,
    ):
        announce_worker(gateway, "worker_other", server.url)
        answer = client.post("/v1/chat/completions", json=slow)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert "in time" in answer.json()["error"]["message"]
        assert int(answer.headers["Retry-After"]) > 0
        assert len(inference.requests) + len(other.requests) == 1, "the time of the first is the time of all"
        wait_until(lambda: inference.cancelled + other.cancelled == 1)
        assert client.post("/v1/chat/completions", json=QUESTION).status_code == 200
