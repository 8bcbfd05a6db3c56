"""Schemathesis over the whole API of a real gateway process: whatever it sends, the answer is one that is declared.

`LATENTBANK_API_EXAMPLES` is how many requests each operation gets beside the systematic ones, `LATENTBANK_API_SEED`
their seed; a failure shows both. `make test-api-long` sends more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from core.base_model.description import directory_of
from core.internal import PROOF
from core.truth.database import Database
from core.truth.workers import announce
from tests.fixtures.internal import access
from tests.fixtures.ports import free_port
from tests.integration.gateway.conftest import ADMIN_KEY, BASE, TOKEN, write_tiny_base
from tests.integration.gateway.inference_stand_in import ANNOUNCED, StandIn
from tests.integration.gateway.servers import RunningServer

EXAMPLES = os.environ.get("LATENTBANK_API_EXAMPLES", "25")
SEED = os.environ.get("LATENTBANK_API_SEED", "20261127")
# Not positive_data_acceptance: a schema can't say that a context has words, that a cursor exists, or that 1.0 is no
# integer. Not use_after_free: a deleted memory is still there to say when it was purged.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,"
    "allow_header_conformance,ignored_auth"
)


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway process, and a tenant's key for it."""

    url: str
    tenant_key: str
    log: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("any-request")
    data, log, port = directory / "data", directory / "gateway.log", free_port()
    write_tiny_base(directory_of(BASE, data / "bases"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LATENTBANK_")},
        "LATENTBANK_DATA_DIR": str(data),
        "LATENTBANK_BASE_MODEL": BASE,
        "LATENTBANK_ADMIN_KEY": ADMIN_KEY,
        "LATENTBANK_INTERNAL_TOKEN": TOKEN,
        "LATENTBANK_GATEWAY__PORT": str(port),
        "LATENTBANK_LIMITS__BACKLOG_PER_TENANT": "1000000",
        # A stream of events is an answer like any other here, but may not take long.
        "LATENTBANK_LIMITS__EVENT_STREAM_SECONDS": "0.2",
        "LATENTBANK_GATEWAY__EVENT_POLL_SECONDS": "0.05",
    }
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output, RunningServer(uvicorn.Config(StandIn(TOKEN).app, log_config=None)) as worker:
        process = subprocess.Popen([sys.executable, "-m", "gateway"], env=environment, stdout=output, stderr=output)
        try:
            _until_healthy(url, process)
            _announce(data, worker.url)
            made = httpx.post(f"{url}/v1/tenants", json={"name": "any"}, headers=_bearer(ADMIN_KEY), trust_env=False)
            yield Running(url, made.raise_for_status().json()["api_key"], log)
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.parametrize("who", ["tenant", "admin"])
def test_whatever_is_sent_the_answer_is_one_that_is_declared(running: Running, who: str, tmp_path: Path) -> None:
    key, wanted = (running.tenant_key, "--exclude-tag") if who == "tenant" else (ADMIN_KEY, "--include-tag")
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{running.url}/openapi.json"),
        *("--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", SEED, "--request-timeout", "20"),
        *("-H", f"Authorization: Bearer {key}", wanted, "tenants", "--no-color", "--warnings", "off"),
        *("--suppress-health-check", "all"),
        # It would revoke its own key, and learn nothing more.
        *("--exclude-path", "/v1/keys/{key_id}", "--exclude-path", "/v1/keys/{key_id}/rotate"),
    ]
    print(f"{who}: {EXAMPLES} examples, seed {SEED}")  # noqa: T201 - what a long run is repeated with
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=7200, check=False)
    said = f"{EXAMPLES} examples, seed {SEED}\n{done.stdout[-12000:]}{done.stderr[-2000:]}"
    assert done.returncode == 0, said
    assert '"event": "request failed"' not in running.log.read_text()


def _announce(data: Path, url: str) -> None:
    ANNOUNCED[url] = "worker_any"
    database = Database(f"sqlite:///{data / 'truth.db'}")
    with database.begin() as connection:
        info = {"name": BASE, PROOF: access(TOKEN, "worker_any").proof(url)}
        announce(connection, "worker_any", "inference", url, info, 24 * 3600)
    database.dispose()


def _until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the gateway ended"
        assert time.monotonic() < give_up, "the gateway did not start"
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
