"""The worker's HTTP edge: OpenAI's routes for the gateway, health and metrics for those who operate it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from pydantic import BaseModel

from core.errors import LatentBankError, Unauthenticated, Unavailable
from core.http.bodies import read_json
from core.ids import is_id, new_id
from core.internal import INTERNAL_HEADER, TENANT_HEADER, Checker, sha256_of
from core.logs import bind
from core.residency import RESIDENCY_PATH, ResidencyReport
from core.settings import LimitSettings
from workers.inference.api.errors import error_body, install_errors
from workers.inference.api.exchange import Exchange
from workers.inference.api.exposition import exposition
from workers.inference.api.schemas import ChatRequest, CompletionRequest
from workers.inference.api.shapes import AnswerShape, model_card, server_sent
from workers.inference.banks.bank import Member
from workers.inference.question import Delta, Finished, Question, Started
from workers.inference.scheduler import Engine
from workers.inference.service import Service
from workers.inference.tiers.pins import Pins


@dataclass(slots=True, eq=False)
class Worker:
    """What the routes use. Service, engine and pins appear when the base is loaded; until then it is not ready.

    `leaving` is set when the process is told to stop: it still answers, but nobody new should come.
    """

    registry: CollectorRegistry
    access: Checker
    service: Service | None = None
    engine: Engine | None = None
    pins: Pins | None = None
    limits: LimitSettings = field(default_factory=LimitSettings)
    leaving: bool = False

    def ready(self) -> tuple[Service, Engine]:
        """Raises `Unavailable` while the base loads, or where the engine has ended."""
        if self.service is None or self.engine is None or not self.engine.alive:
            raise Unavailable("This worker is not ready: its base model is not loaded.")
        return self.service, self.engine


def create_app(worker: Worker, life: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None) -> FastAPI:
    """`life` runs around the server's own: it fills `worker` and tidies up after it."""
    app = FastAPI(title="LatentBank inference worker", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.worker = worker
    install_errors(app)
    _add_operations(app, worker)
    _add_internal(app, worker)
    _add_openai(app, worker)
    return app


def _add_operations(app: FastAPI, worker: Worker) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process lives. It does not where its engine has ended: whoever watches has to start another."""
        if worker.engine is not None and not worker.engine.alive:
            raise Unavailable("This worker's engine has ended.")
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """The base model is loaded, questions are answered, and the worker is to stay."""
        if worker.leaving:
            raise Unavailable("This worker is about to stop.")
        service, _ = worker.ready()
        return {"status": "ready", "model": service.base.description.name, "digest": service.base.description.digest}

    # One scrape at a time, so that none meets the moment in which another's series is being replaced.
    scraping = Lock()

    @app.get("/metrics")
    def metrics() -> Response:
        with scraping:
            model = None
            if worker.service is not None and worker.engine is not None:
                model = worker.service.base.description.name
                worker.engine.show()
                worker.service.show_load(worker.engine.waiting_for)
            return Response(exposition(worker.registry, model), media_type=CONTENT_TYPE_LATEST)


async def _from_gateway(request: Request) -> str:
    """The digest that the body has to have. Runs on the event loop, and before anything of the body is read."""
    access: Checker = request.app.state.worker.access
    header, tenant_id = request.headers.get(INTERNAL_HEADER, ""), request.headers.get(TENANT_HEADER, "")
    path = request.scope["raw_path"].decode("latin-1")
    body_sha256 = access.body_sha256(header, tenant_id, request.method, path, time.time())
    if body_sha256 is None:
        raise Unauthenticated("Only the gateway may ask here, with a signature by the internal token.")
    return body_sha256


async def _tenant(request: Request, _: Annotated[str, Depends(_from_gateway)]) -> str:
    """The tenant for whom the gateway vouches."""
    tenant_id = request.headers.get(TENANT_HEADER, "")
    if not is_id("tenant", tenant_id):
        raise Unauthenticated("X-LatentBank-Tenant names no tenant.")
    return tenant_id


Signed = Annotated[str, Depends(_from_gateway)]
Tenant = Annotated[str, Depends(_tenant)]
Body = TypeVar("Body", bound=BaseModel)


async def _read(request: Request, model: type[Body], limits: LimitSettings, body_sha256: str) -> Body:
    """The body as `model`, where it is the one that was signed."""
    read, body = await read_json(request, model, limits)
    if sha256_of(body) != body_sha256:
        raise Unauthenticated("The body is not the one that the gateway signed.")
    return read


def _add_internal(app: FastAPI, worker: Worker) -> None:
    @app.get(RESIDENCY_PATH, dependencies=[Depends(_from_gateway)])
    def residency() -> ResidencyReport:
        """In a thread of its own, since the node's cache is a directory to read."""
        service, engine = worker.ready()
        return service.report(engine.running, engine.waiting)


def _add_openai(app: FastAPI, worker: Worker) -> None:
    @app.get("/v1/models")
    def models(tenant_id: Tenant) -> dict[str, Any]:
        service, _ = worker.ready()
        base = service.base.description
        cards = [model_card(base.name, 0, root=base.digest, parent=None)]
        cards += [_memory_card(member, base.name) for member in service.models(tenant_id)]
        return {"object": "list", "data": cards}

    @app.get("/v1/models/{name:path}")
    def model(name: str, tenant_id: Tenant) -> dict[str, Any]:
        service, _ = worker.ready()
        base = service.base.description
        if name == base.name:
            return model_card(base.name, 0, root=base.digest, parent=None)
        return _memory_card(service.model(tenant_id, name), base.name)

    @app.post("/v1/chat/completions")
    async def chat(request: Request, tenant_id: Tenant, body_sha256: Signed) -> Response:
        body = await _read(request, ChatRequest, worker.limits, body_sha256)
        shape = AnswerShape("chat", body.model)
        return await _answer(worker, request, body.question(tenant_id), shape, bool(body.stream), body.wants_usage)

    @app.post("/v1/completions")
    async def completions(request: Request, tenant_id: Tenant, body_sha256: Signed) -> Response:
        body = await _read(request, CompletionRequest, worker.limits, body_sha256)
        shape = AnswerShape("text", body.model)
        return await _answer(worker, request, body.question(tenant_id), shape, bool(body.stream), body.wants_usage)


def _memory_card(member: Member, base_name: str) -> dict[str, Any]:
    entry = member.entry
    return model_card(entry.memory_id, member.created, root=member.digest, parent=base_name, title=entry.title)


async def _answer(
    worker: Worker, request: Request, question: Question, shape: AnswerShape, stream: bool, wants_usage: bool
) -> Response:
    service, engine = worker.ready()
    request_id = request.headers.get("x-request-id") or new_id("req")
    with bind(request_id=request_id, tenant_id=question.tenant_id), engine.expecting():
        admitted = await asyncio.to_thread(service.admit, question)
    exchange = Exchange(engine, question.tenant_id, request_id)
    exchange.submit(service.answer(admitted), admitted.digests)
    headers = {"X-Request-Id": request_id}
    try:
        started = await exchange.start(request)
        if not stream:
            text, finished = await exchange.rest(request)
            return JSONResponse(shape.whole(text, started, finished), headers=headers)
    except BaseException:
        exchange.cancel()
        raise
    chunks = _chunks(exchange, shape, started, wants_usage)
    return StreamingResponse(chunks, media_type="text/event-stream", headers={**headers, "Cache-Control": "no-cache"})


async def _chunks(exchange: Exchange, shape: AnswerShape, started: Started, wants_usage: bool) -> AsyncIterator[str]:
    """The stream; leaving it early, as when the client goes away, cancels the request."""
    try:
        yield server_sent(shape.first(started))
        async for event in exchange.events():
            if isinstance(event, Delta) and event.text:
                yield server_sent(shape.delta(event.text))
            if isinstance(event, Finished):
                yield server_sent(shape.last(started, event))
                if wants_usage:
                    yield server_sent(shape.usage(started, event))
    except LatentBankError as problem:
        yield server_sent(error_body(problem))
    finally:
        exchange.cancel()
    yield "data: [DONE]\n\n"
