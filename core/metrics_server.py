"""Where a process without an HTTP edge of its own is scraped; whatever comes to that port, the process goes on.

prometheus-client's own server takes any number of connections, each with a thread, and waits for each for ever.
"""

from __future__ import annotations

import socket
from threading import BoundedSemaphore, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.exposition import ThreadingWSGIServer

from core.logs import get_logger

MOST_AT_ONCE = 16
"""Connections; one more is closed."""
SILENT_SECONDS = 10.0
"""How long a connection may say nothing, or take nothing."""

_NAMED = ("Server", "latentbank")
"""Not what it runs on."""
_log = get_logger(__name__)


class MetricsServer:
    """A small HTTP server in a thread that answers `/metrics`."""

    def __init__(self, server: ThreadingWSGIServer, thread: Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def port(self) -> int:
        return self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def serve_metrics(port: int, host: str, registry: CollectorRegistry) -> MetricsServer:
    """Serves `registry` on `host:port`; port 0 takes a free one. Raises `OSError` where the port is taken."""
    kind = _BoundedOverIPv6 if ":" in host else _Bounded
    server = make_server(host, port, _app(registry), kind, handler_class=_Scrape)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return MetricsServer(server, thread)


def _app(registry: CollectorRegistry) -> WSGIApplication:
    """Answers as gateway and inference worker do. prometheus-client's reads headers, and fails at some (0.26)."""

    def answer(environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            start("405 Method Not Allowed", [("Allow", "GET"), _NAMED])
            return []
        start("200 OK", [("Content-Type", CONTENT_TYPE_LATEST), _NAMED])
        return [generate_latest(registry)]

    return answer


class _Bounded(ThreadingWSGIServer):
    """A thread for each connection, and no more than there are places."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = BoundedSemaphore(MOST_AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off, or was silent; socketserver would print it with its stack."""
        _log.debug("a scrape broke off", exc_info=True)


class _BoundedOverIPv6(_Bounded):
    address_family = socket.AF_INET6


class _Scrape(WSGIRequestHandler):
    """Logs nothing and does not say what it runs on."""

    def setup(self) -> None:
        self.request.settimeout(SILENT_SECONDS)
        super().setup()

    def version_string(self) -> str:
        return _NAMED[1]

    def log_message(self, format: str, *args: Any) -> None:
        """Who scrapes is no news."""
