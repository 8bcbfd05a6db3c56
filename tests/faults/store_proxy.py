"""An HTTP proxy before the S3 server that fails on order: busy, slow, truncated, corrupted, or done but never answered.

It passes the `Host` header on as it came, so that the client's signature still fits.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Literal
from urllib.parse import urlsplit

StoreFault = Literal["503", "slow", "truncated", "corrupted", "late success", "away"]
"""`truncated` and `corrupted` damage what a GET answers; `late success` does what is asked and breaks off instead of
answering; `away` breaks off without doing it."""

_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "keep-alive", "content-length"})
_UPSTREAM_SECONDS = 30


@dataclass(slots=True)
class Rule:
    """Applies to the next `times` requests of `method` ("" for any) whose path has `part` in it."""

    fault: StoreFault
    method: str
    part: str
    times: int
    seconds: float


@dataclass(eq=False)
class StoreProxy:
    """One address before the S3 server at `endpoint`."""

    endpoint: str
    injected: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(
        self, fault: StoreFault, *, method: str = "", part: str = "", times: int = 1, seconds: float = 1.0
    ) -> None:
        """The next `times` requests that match fail so; `seconds` is how long a slow one waits."""
        with self._lock:
            self._rules.append(Rule(fault, method, part, times, seconds))

    def heal(self) -> None:
        with self._lock:
            self._rules.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def fault_of(self, method: str, path: str) -> Rule | None:
        with self._lock:
            for rule in self._rules:
                damages = rule.fault in ("truncated", "corrupted")
                if rule.part in path and rule.method in ("", method) and not (damages and method != "GET"):
                    rule.times -= 1
                    if rule.times <= 0:
                        self._rules.remove(rule)
                    self.injected[rule.fault] += 1
                    return rule
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: StoreProxy

    def do_GET(self) -> None:
        self._serve()

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        rule = self.proxy.fault_of(self.command, self.path)
        fault = rule.fault if rule is not None else None
        if rule is not None and rule.fault == "slow":
            time.sleep(rule.seconds)
        if fault == "away":
            return self._break()
        if fault == "503":
            return self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
        status, headers, answer = self._ask(body)
        if fault == "late success":
            return self._break()
        if fault == "corrupted" and answer:
            answer = bytes([answer[0] ^ 1]) + answer[1:]
        return self._answer(status, headers, answer, keep=len(answer) // 2 if fault == "truncated" else None)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        address = urlsplit(self.proxy.endpoint)
        upstream = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_UPSTREAM_SECONDS)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            found = upstream.getresponse()
            answer = found.read()
            return found.status, found.getheaders(), answer
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, keep: int | None = None) -> None:
        self.send_response_only(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(body)))
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:keep])
        if keep is not None:
            self._break()

    def _break(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
