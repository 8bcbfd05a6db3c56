"""What a gateway does to clients that are slow, large, or many; over sockets: HTTP clients are too well-behaved."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from core.metrics import GatewayMetrics
from core.settings import LimitSettings
from gateway.__main__ import server_config
from gateway.sse import EventStreams
from tests.integration.gateway.conftest import Gateway
from tests.integration.gateway.inference_stand_in import StandIn
from tests.integration.gateway.servers import RunningServer, wait_until

TEXT = {"title": "Harbour", "text": "The harbour opens at six."}
CONNECTIONS, REQUESTS, STREAMS = 12, 3, 2
LIMITS = {
    "head_bytes": 4096,
    "head_fields": 20,
    "head_seconds": 0.4,
    "body_seconds": 0.4,
    "idle_seconds": 1,
    "stalled_seconds": 0.4,
    "connections": CONNECTIONS,
    "requests": REQUESTS,
    "event_streams": STREAMS,
    "event_stream_seconds": 0.4,
    "json_depth": 8,
    "json_items": 200,
    "messages": 10,
    "metadata_depth": 3,
    "metadata_keys": 20,
}


@dataclass(frozen=True, slots=True)
class Strict:
    """A server over the gateway's services that has little patience."""

    port: int
    url: str
    metrics: GatewayMetrics

    def refused(self, why: str) -> float:
        return float(self.metrics.refused.labels(why)._value.get())

    def connect(self) -> closing[socket.socket]:
        return closing(socket.create_connection(("127.0.0.1", self.port), timeout=20))

    def client(self, tenant: httpx.Client, **headers: str) -> httpx.Client:
        headers = {"Authorization": tenant.headers["Authorization"], **headers}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False)


@pytest.fixture
def strict(gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Strict]:
    """A test may change limits by indirect parameters."""
    metrics = GatewayMetrics(CollectorRegistry())
    services = gateway.services
    limits = LimitSettings(**{**services.settings.limits.model_dump(), **LIMITS, **getattr(request, "param", {})})
    settings = services.settings.model_copy(update={"limits": limits})
    streams = EventStreams(STREAMS, limits.event_stream_seconds, 0.02, services.stopping)
    config = server_config(settings, replace(services, settings=settings, metrics=metrics, event_streams=streams))
    config.lifespan = "off"
    with RunningServer(config) as server:
        yield Strict(server.port, server.url, metrics)


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and JSON of all that comes until the other side closes; 0 where nothing comes."""
    said = b""
    while chunk := connection.recv(65536):
        said += chunk
    head, _, body = said.partition(b"\r\n\r\n")
    return (int(head.split()[1]), json.loads(body)) if head else (0, {})


def head(method: str, path: str, *fields: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


def test_a_head_that_trickles_in_is_cut_off(strict: Strict) -> None:
    with strict.connect() as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: ")
        status, said = answer(slow)
    assert (status, said["error"]["code"]) == (408, "request_timeout")
    assert strict.refused("slow") == 1


@pytest.mark.parametrize("said", [b"", b"\r\n\r\n"])
def test_a_connection_that_asks_nothing_is_closed(strict: Strict, said: bytes) -> None:
    with strict.connect() as silent:
        silent.sendall(said)
        assert answer(silent) == (0, {})


def test_a_connection_that_asks_no_more_is_closed(strict: Strict) -> None:
    with strict.connect() as idle:
        idle.sendall(head("GET", "/health"))
        assert answer(idle) == (200, {"status": "ok"})


def test_a_body_that_trickles_in_is_cut_off(strict: Strict, tenant: httpx.Client) -> None:
    fields = (f"Authorization: {tenant.headers['Authorization']}", "Content-Length: 100")
    with strict.connect() as slow:
        slow.sendall(head("POST", "/v1/memories", *fields) + b'{"title"')
        status, said = answer(slow)
    assert (status, said["error"]["code"]) == (408, "request_timeout")


def test_a_body_that_nobody_reads_holds_no_connection(strict: Strict) -> None:
    said = b""
    give_up = time.monotonic() + 30
    with strict.connect() as slow:
        slow.sendall(head("GET", "/health", "Content-Length: 100000"))
        slow.settimeout(0.1)
        while time.monotonic() < give_up:
            try:
                slow.sendall(b"x")
                if not (chunk := slow.recv(65536)):
                    break
                said += chunk
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            pytest.fail("it was let trickle for ever")
    assert b"200 OK" in said


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(["X-A: " + "a" * 5000], id="one large field"),
        pytest.param([f"X-{n}: {'a' * 400}" for n in range(12)], id="large together"),
        pytest.param([f"X-{n}: a" for n in range(30)], id="many fields"),
    ],
)
def test_a_head_that_is_too_large_is_refused(strict: Strict, fields: list[str]) -> None:
    with strict.connect() as large:
        large.sendall(head("GET", "/health", *fields))
        status, said = answer(large)
    assert (status, said["error"]["code"]) == (431, "head_too_large")
    assert strict.refused("head") == 1


def test_a_head_that_never_ends_is_refused_at_its_limit(strict: Strict) -> None:
    with strict.connect() as endless:
        endless.sendall(b"GET /health HTTP/1.1\r\nX-A: ")
        for _ in range(8):
            endless.sendall(b"a" * 1000)
            time.sleep(0.01)
        status, _ = answer(endless)
    assert status == 431
    assert strict.refused("head") == 1


def test_a_head_below_its_limit_is_taken_in_pieces(strict: Strict) -> None:
    whole = head("GET", "/health", "X-A: " + "a" * 3000, "X-B: " + "b" * 900, "Connection: close")
    with strict.connect() as pieces:
        for start in range(0, len(whole), 500):
            pieces.sendall(whole[start : start + 500])
            time.sleep(0.01)
        assert answer(pieces) == (200, {"status": "ok"})


def test_what_is_no_http_is_told_so_in_our_shape(strict: Strict) -> None:
    with strict.connect() as odd:
        odd.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        status, said = answer(odd)
    assert (status, said["error"]["code"]) == (400, "invalid_request")
    assert strict.refused("malformed") == 1


def test_an_upgrade_to_a_websocket_is_not_done(strict: Strict) -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")
    with strict.connect() as socket_:
        socket_.sendall(head("GET", "/health", *upgrade))
        assert answer(socket_)[0] == 200


def test_beyond_so_many_connections_one_is_told_to_come_back(strict: Strict) -> None:
    with ExitStack() as open_:
        for _ in range(CONNECTIONS):
            open_.enter_context(strict.connect()).sendall(b"GET /health HTTP/1.1\r\n")
        status, said = answer(open_.enter_context(strict.connect()))
        assert (status, said["error"]["code"]) == (503, "unavailable")
    assert strict.refused("connections") == 1
    wait_until(lambda: httpx.get(f"{strict.url}/health", trust_env=False).status_code == 200)


def test_beyond_so_many_requests_one_is_told_to_come_back_and_probes_are_not(
    strict: Strict, tenant: httpx.Client, inference: StandIn
) -> None:
    body = json.dumps({"model": "slow", "messages": [{"role": "user", "content": "hi"}]}).encode()
    fields = (f"Authorization: {tenant.headers['Authorization']}", f"Content-Length: {len(body)}")
    with strict.client(tenant) as client:
        with ExitStack() as waiting:
            for _ in range(REQUESTS):
                asking = waiting.enter_context(strict.connect())
                asking.sendall(head("POST", "/v1/chat/completions", *fields) + body)
            wait_until(lambda: inference.running == REQUESTS)
            crowded = client.get("/v1/memories")
            assert (crowded.status_code, crowded.json()["error"]["code"]) == (503, "unavailable")
            assert int(crowded.headers["Retry-After"]) > 0
            assert client.get("/health").status_code == client.get("/metrics").status_code == 200
        wait_until(lambda: client.get("/v1/memories").status_code == 200)


def test_an_event_stream_ends_after_its_time_and_goes_on_where_it_was(strict: Strict, tenant: httpx.Client) -> None:
    path = f"/v1/jobs/{tenant.post('/v1/memories', json=TEXT).json()['job_id']}/events"
    with strict.client(tenant, Accept="text/event-stream") as client:
        first = client.get(path).text
        assert "[DONE]" not in first
        last = [line.removeprefix("id: ") for line in first.splitlines() if line.startswith("id: ")][-1]
        assert client.get(path, headers={"Last-Event-ID": last}).text == "retry: 2000\n\n"


@pytest.mark.parametrize("strict", [{"event_stream_seconds": 60}], indirect=True)
def test_beyond_so_many_event_streams_one_is_told_to_come_back(strict: Strict, tenant: httpx.Client) -> None:
    path = f"/v1/jobs/{tenant.post('/v1/memories', json=TEXT).json()['job_id']}/events"
    with strict.client(tenant, Accept="text/event-stream") as client:
        with ExitStack() as following:
            streams = [following.enter_context(client.stream("GET", path)).iter_raw() for _ in range(STREAMS)]
            assert all(next(stream) for stream in streams)
            crowded = client.get(path)
            assert (crowded.status_code, crowded.json()["error"]["code"]) == (429, "overloaded")
            assert int(crowded.headers["Retry-After"]) > 0
        wait_until(lambda: _begins(client, path))


def _begins(client: httpx.Client, path: str) -> bool:
    with client.stream("GET", path) as following:
        return following.status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"metadata": {"a": {"b": {"c": {}}}}}, "metadata", id="metadata too deep"),
        pytest.param({"metadata": {str(n): n for n in range(21)}}, "metadata", id="too many keys"),
        pytest.param({"metadata": {"a": [[[[[[[[1]]]]]]]]}}, None, id="JSON too deep"),
        pytest.param({"metadata": {"a": list(range(300))}}, None, id="too many items"),
        pytest.param(
            {"text": None, "messages": [{"role": "user", "content": "a"}] * 11}, "messages", id="too many messages"
        ),
    ],
)
def test_what_is_too_deep_or_too_many_is_a_400(
    strict: Strict, tenant: httpx.Client, fields: dict[str, Any], param: str | None
) -> None:
    with strict.client(tenant) as client:
        refused = client.post("/v1/memories", json={**TEXT, **fields})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_nesting_without_end_is_a_400(gateway: Gateway, tenant: httpx.Client, inference: StandIn) -> None:
    for body in (b'{"title": ' + b"[" * 60_000, b'{"a":' * 10_000):
        for path in ("/v1/memories", "/v1/chat/completions"):
            assert tenant.post(path, content=body).status_code == 400
    assert inference.requests == []


def test_a_client_that_does_not_read_its_answer_is_cut_off(strict: Strict) -> None:
    requests = head("GET", "/openapi.json") * 1000
    with closing(socket.socket()) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", strict.port))
        deaf.settimeout(0.1)
        give_up = time.monotonic() + 60
        while strict.refused("stalled") == 0:
            assert time.monotonic() < give_up, "it was let wait for ever"
            try:
                requests = requests[deaf.send(requests) :]
            except OSError:
                time.sleep(0.02)
