"""Around every request: its id, whether there is room, its line in the log, its metrics, a 500 for the rest."""

from __future__ import annotations

import re
import time
from threading import Event

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import Unavailable
from core.ids import new_id
from core.logs import bind, get_logger
from core.metrics import GatewayMetrics
from gateway.errors import answer_to, internal_error

CLIENT_GONE = 499
"""nginx's status of a request whose client left before the answer; only logs and metrics see it."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})
# Asked every few seconds by probes and scrapers.
_QUIET = frozenset({"/health", "/ready", "/metrics"})
_log = get_logger(__name__)


class RequestScope:
    """Pure ASGI, so that streams pass through untouched and contextvars reach the routes."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, most_requests: int, stopping: Event) -> None:
        self._app = app
        self._metrics = metrics
        self._most = most_requests
        self._stopping = stopping
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = CLIENT_GONE
        began = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, began
            if message["type"] == "http.response.start":
                status, began = message["status"], True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if self._stopping.is_set():
                    # A client that kept its connection would otherwise write its next request into a closed one.
                    headers["Connection"] = "close"
            await send(message)

        started = time.perf_counter()
        self._under_way += 1
        with bind(request_id=request_id):
            try:
                await self._answer(scope, receive, send_with_id)
            except ClientDisconnect:
                pass
            except Exception as problem:
                _log.exception("request failed")
                if began:
                    # Too late for an error: the server cuts the connection, so that the client sees a broken answer.
                    raise _Broken from problem
                await internal_error()(scope, receive, send_with_id)
            finally:
                self._under_way -= 1
                self._record(scope, status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Probes and scrapes are let in: a crowd is no reason to be taken for dead.
        if self._under_way > self._most and scope["path"] not in _QUIET:
            self._metrics.refused.labels("requests").inc()
            await answer_to(Unavailable("Too many requests are under way here; try again."))(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._metrics.requests.labels(route=route, method=method, status=str(status)).inc()
        self._metrics.request_seconds.labels(route=route).observe(seconds)
        write = _log.debug if route in _QUIET else _log.info
        tenant_id = scope["state"].get("tenant_id")
        write("request", route=route, method=method, status=status, seconds=round(seconds, 4), tenant_id=tenant_id)


class _Broken(Exception):
    """An answer broke off after it had begun."""


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else new_id("req")
