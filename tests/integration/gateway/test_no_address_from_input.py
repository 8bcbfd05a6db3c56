"""Nothing that is sent is taken for an address: no URL is fetched, no path is opened, whatever place it is put in.

The places come from the OpenAPI document, so that a new operation or field is covered by itself. The gateway runs in
this process, whose audit hook sees each file that is opened, each name that is looked up, each program that is begun.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import select

from core.settings import LimitSettings
from core.truth.api_keys import issue_key
from core.truth.tables import tenants
from core.truth.tenants import create_tenant
from gateway.server import server_config
from tests.fixtures.canary import Canary, listening_canary
from tests.integration.gateway.conftest import ADMIN_KEY, BASE, Gateway
from tests.integration.gateway.filling import Filling
from tests.integration.gateway.inference_stand_in import StandIn
from tests.integration.gateway.operations import Operation, operations
from tests.integration.gateway.servers import RunningServer

STRAY = "stray-0d41c7"
"""In every path that is sent: what has it in its name outside of a value was made, or looked for, from input."""
SECRET_LINE = Path("/etc/passwd").read_text().splitlines()[0]
TAKES_WORDS = {
    *("POST /v1/memories", "POST /v1/memories/batch", "PUT /v1/memories/{memory_id}", "POST /v1/chat/completions"),
    *("POST /v1/keys", "POST /v1/tenants", "POST /v1/tenants/{tenant_id}/keys"),
}
"""Operations where a hostile string is a text or a name like any other, and goes all the way."""
WATCHED = ("open", "os.", "shutil.", "glob.", "subprocess.", "pathlib.", "socket.", "urllib.", "sqlite3.", "ctypes.")


@pytest.fixture
def canary() -> Iterator[Canary]:
    with listening_canary() as canary:
        yield canary


class Watch:
    """What this process does with anything that has `STRAY` in its name. An audit hook can't be taken away again."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._on = False
        sys.addaudithook(self._hear)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._on and event.startswith(WATCHED) and STRAY in repr(arguments):
            self.seen.append(f"{event} {arguments!r}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@dataclass(frozen=True, slots=True)
class Asking:
    """A gateway with room for all of it, and what its tenant has by the names of path parameters."""

    client: httpx.Client
    ids: Mapping[str, str]
    tenant_key: str

    def ask(self, operation: Operation, path: str, body: Any = None, **params: str) -> httpx.Response:
        key = {"tenant": self.tenant_key, "admin": ADMIN_KEY, "anybody": ""}[operation.who]
        headers = {"Authorization": f"Bearer {key}"}
        # As it is: httpx would tidy up a path.
        query = f"?{httpx.QueryParams(params)}" if params else ""
        target = {"target": (path + query).encode()}
        answer = self.client.request(operation.method, "/", headers=headers, json=body, extensions=target)
        if operation.method == "PUT" and answer.status_code == 202:
            # Else the next version would have to wait for this one.
            self.cancel(answer.json()["job_id"])
        return answer

    def cancel(self, job_id: str) -> None:
        headers = {"Authorization": f"Bearer {self.tenant_key}"}
        self.client.post(f"/v1/jobs/{job_id}/cancel", headers=headers).raise_for_status()

    def path(self, operation: Operation, **others: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: {**self.ids, **others}[found[1]], operation.path)


@pytest.fixture
def asking(gateway: Gateway, inference: StandIn) -> Iterator[Asking]:
    services = gateway.services
    wide = LimitSettings(**{**services.settings.limits.model_dump(), "backlog_per_tenant": 100_000})
    settings = services.settings.model_copy(update={"limits": wide})
    config = server_config(settings, replace(services, settings=settings))
    config.lifespan = "off"
    with gateway.database.begin() as connection:
        tenant = create_tenant(connection, "harbour")
        key, _ = issue_key(connection, tenant.id)
        _, spare = issue_key(connection, tenant.id)
    with (
        RunningServer(config) as server,
        httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client,
    ):
        client.headers["Accept-Encoding"] = "identity"
        own = {"Authorization": f"Bearer {key}"}
        made, gone = (
            client.post("/v1/memories", json={"title": title, "text": "It opens at six."}, headers=own).json()
            for title in ("Harbour", "Gone")
        )
        deleted = client.delete(f"/v1/memories/{gone['id']}", headers=own).json()
        ids = {"memory_id": made["id"], "job_id": made["job_id"], "key_id": spare.id, "tenant_id": tenant.id}
        ready = Asking(client, {**ids, "deletion_id": deleted["deletion_id"], "model": BASE}, key)
        ready.cancel(made["job_id"])
        yield ready


def hostile(canary: Canary, data: Path) -> list[str]:
    """Addresses and paths. Each path, taken for one, would lead to something named `STRAY`, or to a secret."""
    return [
        f"{canary.url}/{STRAY}",
        f"s3://{canary.url.removeprefix('http://')}/{STRAY}",
        "file:///etc/passwd",
        "../" * 12 + "etc/passwd",
        f"../../{STRAY}",
        f"..\\..\\{STRAY}",
        f"{data.parent}/{STRAY}",
        f"{STRAY}\0.json",
        f"{STRAY}/" * 700,
    ]


def test_no_string_of_a_body_is_taken_for_an_address(
    gateway: Gateway, asking: Asking, canary: Canary, watch: Watch
) -> None:
    document = gateway.declared.document
    filling = Filling(document)
    taken = set()
    with nothing_reached(gateway, canary, watch):
        for operation in (one for one in operations(document) if one.takes_body):
            declared = document["paths"][operation.path][operation.method.lower()]["requestBody"]
            schema = declared["content"]["application/json"]["schema"]
            for value in hostile(canary, gateway.services.settings.data_dir):
                for body in filling.bodies(schema, value):
                    answer = asking.ask(operation, asking.path(operation), body)
                    assert_harmless(answer, operation, body)
                    if answer.status_code < 300:
                        taken.add(operation.name)
    assert taken >= TAKES_WORDS, "these were refused whatever was sent, so that nothing was tried"


def test_no_parameter_is_taken_for_an_address(gateway: Gateway, asking: Asking, canary: Canary, watch: Watch) -> None:
    with nothing_reached(gateway, canary, watch):
        for operation in operations(gateway.declared.document):
            body: Any = {} if operation.takes_body else None
            for value in hostile(canary, gateway.services.settings.data_dir):
                for name in operation.names_in("query"):
                    answer = asking.ask(operation, asking.path(operation), body, **{name: value})
                    assert_harmless(answer, operation, (name, value))
                for name in operation.names_in("path"):
                    for form in {quote(value, safe=""), quote(value), quote(quote(value, safe=""), safe="")}:
                        answer = asking.ask(operation, asking.path(operation, **{name: form}), body)
                        assert_harmless(answer, operation, (name, form))


def test_what_would_be_reached_would_be_noticed(gateway: Gateway, canary: Canary, watch: Watch, tmp_path: Path) -> None:
    """The nets of the tests above, each with something in it."""
    data = gateway.services.settings.data_dir
    asks: Callable[[], object] = lambda: httpx.get(hostile(canary, data)[0], trust_env=False)  # noqa: E731
    assert caught(asks, gateway, canary, watch) == "the canary was asked"
    canary.asked.clear()
    assert caught((tmp_path / STRAY).read_text, gateway, canary, watch) == "something was opened that input names"
    watch.seen.clear()
    for left in (data / "objects" / "object", data / f"{STRAY}.json", data.parent / STRAY):
        left.touch()
        assert "was left" in caught(dict, gateway, canary, watch)
        left.unlink()
    passwd = httpx.Response(200, text=Path("/etc/passwd").read_text())
    with pytest.raises(AssertionError):
        assert_harmless(passwd, operations(gateway.declared.document)[0], None)


def caught(reach: Callable[[], object], gateway: Gateway, canary: Canary, watch: Watch) -> str:
    """What is said of that."""
    with pytest.raises(AssertionError) as problem, nothing_reached(gateway, canary, watch), suppress(Exception):
        reach()
    return str(problem.value).partition("\n")[0]


def assert_harmless(answer: httpx.Response, operation: Operation, sent: object) -> None:
    assert answer.status_code < 500, (operation.name, str(sent)[:300], answer.text)
    assert SECRET_LINE not in answer.text, (operation.name, str(sent)[:300])


@contextmanager
def nothing_reached(gateway: Gateway, canary: Canary, watch: Watch) -> Iterator[None]:
    """Raises where, within the block, anything from input was asked, opened, or left outside of a tenant's prefix."""
    with watch.watching():
        yield
    assert canary.asked == [], "the canary was asked"
    assert watch.seen == [], "something was opened that input names"
    with gateway.database.read() as connection:
        known = set(connection.execute(select(tenants.c.id)).scalars())
    for stored in gateway.services.store.list(""):
        of_tenant = re.fullmatch(
            r"tenants/(tenant_\w{26})/memories/mem_\w{26}/context(s/job_\w{26})?\.json", stored.key
        )
        assert stored.key == "truth.json" or (of_tenant and of_tenant[1] in known), f"{stored.key} was left"
    data = gateway.services.settings.data_dir.resolve()
    for directory in {data, *data.parents, Path.cwd(), *Path.cwd().parents}:
        assert not list(directory.glob(f"*{STRAY}*")), f"a file was left in {directory}"
    assert not list(data.rglob(f"*{STRAY}*")), "a file was left in the data directory"
