from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from core import metrics_server
from core.metrics_server import MetricsServer, serve_metrics
from tests.fixtures.garbage import answer, pieces

QUIET_SECONDS = 0.3


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsServer]:
    monkeypatch.setattr(metrics_server, "SILENT_SECONDS", QUIET_SECONDS)
    registry = CollectorRegistry()
    Counter("scraped", "A counter.", registry=registry).inc()
    server = serve_metrics(0, "127.0.0.1", registry)
    yield server
    server.close()


def scrape(server: MetricsServer) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{server.port}/metrics", trust_env=False, timeout=20)


def test_whatever_comes_the_next_scrape_is_answered_and_nothing_is_told(
    server: MetricsServer, capfd: pytest.CaptureFixture[str]
) -> None:
    for piece in pieces(200):
        heard = answer(server.port, piece)
        assert b"Traceback" not in heard, piece
        assert b"Python" not in heard, piece
        assert b" 500 " not in heard.partition(b"\r\n")[0], piece
    assert "scraped_total 1.0" in scrape(server).text
    assert capfd.readouterr().err == ""


def test_who_says_nothing_is_closed(server: MetricsServer) -> None:
    for said in (b"", b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nX: "):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(said)
            while connection.recv(65536):
                pass
    assert scrape(server).status_code == 200


def test_so_many_connections_are_held_and_others_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "SILENT_SECONDS", 20)
    server = serve_metrics(0, "127.0.0.1", CollectorRegistry())
    with ExitStack() as held:
        for _ in range(metrics_server.MOST_AT_ONCE):
            held.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as one_more:
            assert one_more.recv(1) == b""
    until_served(server)
    server.close()


def until_served(server: MetricsServer) -> None:
    """The places of those who left are free in a moment."""
    while True:
        try:
            assert scrape(server).status_code == 200
        except httpx.TransportError:
            continue
        return


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_it_listens_where_it_is_told(host: str) -> None:
    if host == "::1" and not ipv6():
        pytest.skip("this machine has no IPv6")
    server = serve_metrics(0, host, CollectorRegistry())
    address = f"[{host}]" if ":" in host else host
    assert httpx.get(f"http://{address}:{server.port}/metrics", trust_env=False).status_code == 200
    server.close()


def ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
