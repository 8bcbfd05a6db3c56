"""Passes a tenant's question on to an inference worker, and its answer back, streamed or whole.

The worker trusts the gateway about who the tenant is, by a signature for this worker and this request; the tenant's own
key stays here, and so does the token that signs.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

import anyio
import httpx
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from core.errors import Unavailable
from core.internal import INTERNAL_HEADER, TENANT_HEADER
from core.logs import get_logger
from core.metrics import GatewayMetrics
from core.truth.database import Database
from core.truth.records import Tenant, WorkerRecord
from gateway.announced import Announced
from gateway.banks import Banks
from gateway.errors import error_body, error_response
from gateway.fleet import Fleet
from gateway.holdings import Keys
from gateway.placement import preferred
from gateway.signing import Sign

MAX_WORKERS_TRIED = 3

_LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=5.0)
_RELAYED_HEADERS = ("content-type", "cache-control", "retry-after")
_log = get_logger(__name__)
_EVENT_END = re.compile(rb"\r?\n\r?\n")
T = TypeVar("T")


def open_http(answer_seconds: float, verify: ssl.SSLContext) -> httpx.AsyncClient:
    # A whole answer may take as long as its generation; a worker that is gone shows within the connect time.
    timeout = httpx.Timeout(connect=2.0, read=answer_seconds, write=30.0, pool=5.0)
    return httpx.AsyncClient(timeout=timeout, limits=_LIMITS, trust_env=False, verify=verify)


class InferenceClient:
    """Chooses workers by `placement.preferred` and counts what each has under way from here."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        database: Database,
        sign: Sign,
        answer_seconds: float,
        announced: Announced,
        fleet: Fleet,
        metrics: GatewayMetrics,
    ) -> None:
        self._http = http
        self._sign = sign
        self._answer_seconds = answer_seconds
        self._announced = announced
        self._fleet = fleet
        self._metrics = metrics
        self._banks = Banks(database)
        self._in_flight: Counter[str] = Counter()

    async def relay(self, request: Request, tenant: Tenant, path: str, body: bytes | None = None) -> Response:
        """The worker's answer to `path`. When the client goes away the worker's request is cancelled.

        A worker that can't be reached, breaks off before its answer begins, or says 429 or 503 is passed over for the
        next.
        Raises `Unavailable` where none is left, `ClientDisconnect` where nobody waits any more.
        """
        workers, bank = await run_in_threadpool(self._look_up, tenant)
        if not workers:
            self._metrics.unrouted.labels("no_worker").inc()
            raise Unavailable("No inference worker is there right now; try again.")
        known = self._fleet.known(bank, time.monotonic())
        best = islice(preferred(tenant.id, workers, self._in_flight, known), MAX_WORKERS_TRIED)
        headers = self._headers(request, tenant)
        answering = self._first_answer(best, known.coverage, request.method, path, headers, body)
        try:
            async with asyncio.timeout(self._answer_seconds):
                return await _unless_gone(request, answering)
        except TimeoutError:
            self._metrics.unrouted.labels("no_answer").inc()
            raise Unavailable("No inference worker answered in time; try again.") from None

    def _look_up(self, tenant: Tenant) -> tuple[Mapping[str, WorkerRecord], Keys]:
        """The workers that are announced, by id, and the tenant's bank."""
        return self._announced.workers(), self._banks.keys(tenant)

    def _headers(self, request: Request, tenant: Tenant) -> dict[str, str]:
        return {
            TENANT_HEADER: tenant.id,
            "X-Request-Id": request.state.request_id,
            "Accept": request.headers.get("accept", "*/*"),
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }

    async def _first_answer(
        self,
        workers: Iterable[WorkerRecord],
        coverage: Mapping[str, float],
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None,
    ) -> Response:
        attempts = self._metrics.attempts
        busy: Response | None = None
        for worker in workers:
            signed = {**headers, INTERNAL_HEADER: self._sign(worker.id, headers[TENANT_HEADER], method, path, body)}
            upstream = self._http.build_request(method, worker.url.rstrip("/") + path, headers=signed, content=body)
            try:
                answer = await self._answer_of(worker, upstream)
            except httpx.TransportError as problem:
                _log.warning("inference worker did not answer", worker_id=worker.id, reason=repr(problem))
                self._fleet.lose(worker.id)
                self._announced.doubt()
                attempts.labels("unreachable").inc()
                continue
            if answer.status_code not in (429, 503):
                attempts.labels("answered").inc()
                self._metrics.routed.labels(_why(worker.id, coverage)).inc()
                return answer
            attempts.labels("busy").inc()
            busy = answer
        self._metrics.unrouted.labels("no_answer" if busy is None else "all_busy").inc()
        if busy is None:
            raise Unavailable("No inference worker answered; try again.")
        busy.headers.setdefault("Retry-After", "5")
        return busy

    async def _answer_of(self, worker: WorkerRecord, request: httpx.Request) -> Response:
        """A stream that is still open, or a whole answer that has been read to its end."""
        self._in_flight[worker.id] += 1
        upstream: httpx.Response | None = None
        handed_on = False
        try:
            upstream = await self._http.send(request, stream=True)
            if upstream.status_code == 200 and _is_stream(upstream):
                handed_on = True
                return _OpenStream(upstream, lambda: self._done(worker))
            await upstream.aread()
            return _whole(upstream, worker)
        finally:
            if not handed_on:
                self._done(worker)
                await _close(upstream)

    def _done(self, worker: WorkerRecord) -> None:
        self._in_flight[worker.id] -= 1
        if self._in_flight[worker.id] <= 0:
            del self._in_flight[worker.id]


class _OpenStream(StreamingResponse):
    """Server-sent events, passed on as they come; closed upstream however it ends here."""

    def __init__(self, upstream: httpx.Response, done: Callable[[], None]) -> None:
        # Proxies on the way must not collect the events.
        headers = {"cache-control": "no-cache", **_relayed_headers(upstream), "x-accel-buffering": "no"}
        super().__init__(whole_events(upstream), 200, headers)
        self._upstream = upstream
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._done()
            await _close(self._upstream)


async def whole_events(upstream: httpx.Response) -> AsyncIterator[bytes]:
    """The stream cut between events, so that a worker that breaks off leaves no half event before the error's own."""
    tail = b""
    try:
        async for chunk in upstream.aiter_raw():
            tail += chunk
            *whole, tail = _EVENT_END.split(tail)
            if whole:
                yield b"".join(part + b"\n\n" for part in whole)
    except httpx.TransportError as problem:
        _log.warning("inference worker broke off its stream", reason=repr(problem))
        error = error_body(503, Unavailable.code, "The inference worker broke off its answer; try again.")
        yield f"data: {json.dumps(error)}\n\n".encode()
        return
    if tail:
        yield tail


def _why(worker_id: str, coverage: Mapping[str, float]) -> str:
    """Why this worker: it holds the bank, or others do and could not, or nobody does."""
    if worker_id in coverage:
        return "held"
    return "spilled" if coverage else "hashed"


def _whole(upstream: httpx.Response, worker: WorkerRecord) -> Response:
    status = upstream.status_code
    if status in (401, 403):
        _log.error("inference worker refuses this gateway; compare internal tokens and clocks", worker_id=worker.id)
        return error_response(503, Unavailable.code, "The inference worker is not set up for this gateway.")
    if status >= 400 and not _is_error(upstream):
        _log.error("inference worker answered in no known shape", worker_id=worker.id, status=status)
        return error_response(status, "inference_error", "The inference worker could not answer this.")
    return Response(upstream.content, status, _relayed_headers(upstream))


def _is_stream(upstream: httpx.Response) -> bool:
    return str(upstream.headers.get("content-type", "")).startswith("text/event-stream")


def _is_error(upstream: httpx.Response) -> bool:
    try:
        body = json.loads(upstream.content)
    except ValueError:
        return False
    return isinstance(body, dict) and isinstance(body.get("error"), dict)


def _relayed_headers(upstream: httpx.Response) -> dict[str, str]:
    return {name: upstream.headers[name] for name in _RELAYED_HEADERS if name in upstream.headers}


async def _close(upstream: httpx.Response | None) -> None:
    """Also when this task is being cancelled: the worker learns by it that nobody waits any more."""
    if upstream is not None:
        with anyio.CancelScope(shield=True):
            await upstream.aclose()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; cancels it and raises `ClientDisconnect` where the client goes away first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
