"""One inference worker as a process."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from core.errors import SetupError
from core.http.connections import bounded
from core.ids import new_id
from core.internal import Checker, Secrets, secrets_of
from core.metrics import InferenceMetrics
from core.settings import Settings
from core.starting import run_process
from core.truth.database import Database
from core.truth.schema import ready_for_work
from workers.inference.api.admin import create_admin_app
from workers.inference.api.listener import bind, listening
from workers.inference.api.server import Worker, create_app
from workers.inference.leaving import LeavingServer
from workers.inference.life import Life

Around = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def main() -> int:
    """Runs until SIGTERM or SIGINT; 1 where the worker could not come up, 2 where it was refused."""
    return run_process("inference", serve)


def serve(settings: Settings) -> int:
    access = Checker(_secrets(settings), new_id("worker"))
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    metrics = InferenceMetrics(registry)
    worker = Worker(registry, access, limits=settings.limits)
    connections = bounded(HttpToolsProtocol, settings.limits, lambda why: metrics.refused.labels(why).inc())
    admin = _admin(worker, settings)
    database = Database(settings.resolved_database_url)
    ready_for_work(database, migrate=settings.migrate_at_start)
    failed: list[bool] = []

    def fail() -> None:
        failed.append(True)
        server.should_exit = True

    life = Life(worker, settings, database, metrics, fail)
    config = uvicorn.Config(
        create_app(worker, _with_admin(life.around, admin, connections)),
        host=settings.serving.host,
        port=settings.serving.port,
        http=connections,
        ws="none",
        timeout_keep_alive=settings.limits.idle_seconds,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=round(settings.serving.grace_seconds),
        ssl_certfile=settings.serving.tls_cert,
        ssl_keyfile=settings.serving.tls_key,
    )
    server = LeavingServer(config, life.leave, settings.serving.drain_seconds)
    # uvicorn raises the signal again after it has shut down in order; that shall not kill the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run()
    database.dispose()
    return 1 if failed or not server.started else 0


def _secrets(settings: Settings) -> Secrets:
    """Raises `SetupError` where there are none."""
    shared = secrets_of(settings)
    if shared is None:
        raise SetupError("LATENTBANK_INTERNAL_TOKEN is not set; without it anyone here could speak for any tenant.")
    return shared


def _admin(worker: Worker, settings: Settings) -> tuple[FastAPI, socket.socket] | None:
    """The operator's application and where it listens, if it shall."""
    serving = settings.serving
    if serving.admin_port is None:
        return None
    if settings.admin_key is None or not settings.admin_key.get_secret_value():
        raise SetupError("LATENTBANK_SERVING__ADMIN_PORT is set, but no LATENTBANK_ADMIN_KEY that would guard it.")
    return create_admin_app(worker, settings.admin_key, settings.admin_key_also), bind(
        serving.admin_host, serving.admin_port
    )


def _with_admin(
    around: Around, admin: tuple[FastAPI, socket.socket] | None, connections: type[asyncio.Protocol]
) -> Around:
    """`around`, with the operator's port open while it lasts."""
    if admin is None:
        return around

    @asynccontextmanager
    async def both(app: FastAPI) -> AsyncIterator[None]:
        async with around(app), listening(*admin, connections):
            yield

    return both
