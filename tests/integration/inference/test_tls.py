"""A real worker that speaks TLS, and gateways that know it by its authority, by another, or by the machine's."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from core.base_model.description import BaseDescription
from core.errors import SetupError
from core.retrieval.encoder import Encoder
from core.settings import GatewaySettings, Settings
from core.truth.api_keys import issue_key
from core.truth.workers import alive
from gateway.server import server_config
from gateway.services import open_services
from gateway.signing import workers_tls
from tests.fixtures.certificates import Authority, make_authority
from tests.fixtures.ports import wait_until
from tests.integration.gateway.servers import RunningServer
from tests.integration.inference.conftest import START_SECONDS, TOKEN, RunningWorker, start_worker, stop_worker


@dataclass(frozen=True, slots=True)
class Secured:
    """`base` is what the worker serves, `directory` where its truth and its objects are."""

    worker: RunningWorker
    base: BaseDescription
    directory: Path
    authority: Authority

    @contextmanager
    def gateway(self, worker_ca: Path | None) -> Iterator[httpx.Client]:
        """A client of a new tenant, of a gateway that knows workers by these certificates."""
        settings = Settings(
            _env_file=None,
            data_dir=self.base.path.parent.parent,
            database_url=f"sqlite:///{self.directory / 'truth.db'}",
            storage={"url": f"file://{self.directory / 'objects'}"},
            base_model=self.base.reference,
            internal_token=TOKEN,
            gateway=GatewaySettings(residency_poll_seconds=0.1, worker_list_seconds=0, worker_ca=worker_ca),
        )
        services = open_services(settings)
        tenant_id = self.worker.publisher.tenant()
        with self.worker.database.begin() as connection:
            key, _ = issue_key(connection, tenant_id)
        headers = {"Authorization": f"Bearer {key}"}
        with (
            RunningServer(server_config(settings, services)) as server,
            httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as client,
        ):
            yield client


@pytest.fixture(scope="module")
def secured(
    tiny_base: BaseDescription, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("tls")
    authority = make_authority(directory / "authority")
    certificate, key = authority.issue("127.0.0.1")
    tls = {"LATENTBANK_SERVING__TLS_CERT": str(certificate), "LATENTBANK_SERVING__TLS_KEY": str(key)}
    worker = start_worker(directory, tiny_base, encoder, **tls)
    try:
        wait_until(lambda: _announced(worker) != [], START_SECONDS, "the worker's announcement")
        yield Secured(worker, tiny_base, directory, authority)
    finally:
        stop_worker(worker)


def test_a_worker_with_a_certificate_is_asked_by_who_knows_its_authority(secured: Secured) -> None:
    assert _announced(secured.worker) == [secured.worker.url.replace("http://", "https://")]
    with secured.gateway(secured.authority.certificate) as client:
        answer = client.post("/v1/chat/completions", json=_question(secured))
        assert answer.status_code == 200, answer.text
        stream = client.post("/v1/chat/completions", json={**_question(secured), "stream": True})
        assert stream.text.endswith("data: [DONE]\n\n")
        wait_until(lambda: _polls(client, "reported") > 0, 20, "a report of what the worker holds")
        assert _polls(client, "unreachable") == 0


@pytest.mark.parametrize("known", ["another authority", "the machine's authorities"])
def test_a_worker_whose_authority_is_not_known_gets_no_question(secured: Secured, known: str, tmp_path: Path) -> None:
    another = make_authority(tmp_path / "another").certificate if known == "another authority" else None
    with secured.gateway(another) as client:
        answer = client.post("/v1/chat/completions", json=_question(secured))
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            503,
            "No inference worker answered; try again.",
        )
        wait_until(lambda: _polls(client, "unreachable") > 0, 20, "a poll that fails")
        assert _polls(client, "reported") == 0


def test_a_certificate_is_good_for_its_address_alone(secured: Secured) -> None:
    port = httpx.URL(secured.worker.url).port
    assert port is not None
    known = workers_tls(secured.authority.certificate)
    with known.wrap_socket(
        socket.create_connection(("127.0.0.1", port), 20), server_hostname="127.0.0.1"
    ) as connection:
        assert connection.version() in ("TLSv1.2", "TLSv1.3")
    with socket.create_connection(("127.0.0.1", port), 20) as plain, pytest.raises(ssl.SSLCertVerificationError):
        known.wrap_socket(plain, server_hostname="127.0.0.2")


def test_a_worker_that_speaks_tls_answers_nothing_else(secured: Secured) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{secured.worker.url}/health", timeout=20, trust_env=False)


def test_certificates_that_are_none_are_refused_at_the_start(tmp_path: Path) -> None:
    for content in (None, "", "no certificate"):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_text(content)
        with pytest.raises(SetupError, match="LATENTBANK_GATEWAY__WORKER_CA"):
            workers_tls(path)


def _question(secured: Secured) -> dict[str, object]:
    words = [{"role": "user", "content": "Who is there?"}]
    return {"model": secured.base.name, "messages": words, "max_tokens": 4}


def _announced(worker: RunningWorker) -> list[str]:
    assert worker.process.poll() is None, worker.log.read_text()[-2000:]
    with worker.database.read() as connection:
        return [record.url for record in alive(connection, "inference")]


def _polls(client: httpx.Client, outcome: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    name = f'latentbank_gateway_residency_polls_total{{outcome="{outcome}"}} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))
