"""The parts that the routes work with, opened once per process."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from typing import Annotated

import httpx
from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from core.base_model.prepare import ensure_prepared
from core.encryption.sealed_store import open_sealed_store
from core.metrics import GatewayMetrics
from core.settings import Settings
from core.storage.object_store import ObjectStore
from core.truth.database import Database
from core.truth.schema import ready_for_work
from gateway.announced import Announced
from gateway.base_model import BasePreparation
from gateway.fleet import Fleet
from gateway.inference_client import InferenceClient, open_http
from gateway.residency_poll import MISSED_POLLS, ResidencyPoll


@dataclass(frozen=True, slots=True)
class Services:
    """`stopping` is set when the process is told to stop, so that endless answers end."""

    settings: Settings
    database: Database
    store: ObjectStore
    base: BasePreparation
    inference: InferenceClient
    residency: ResidencyPoll
    http: httpx.AsyncClient
    registry: CollectorRegistry
    metrics: GatewayMetrics
    stopping: Event


def open_services(settings: Settings) -> Services:
    """Opens everything; reaches the database (its tables), and starts preparing the base model in a thread."""
    database = Database(settings.resolved_database_url)
    ready_for_work(database, migrate=settings.migrate_at_start)
    store = open_sealed_store(settings, database)
    base = BasePreparation(lambda: ensure_prepared(settings.base_model, settings.base_dir))
    base.start()
    registry = CollectorRegistry()
    http = open_http()
    token = settings.internal_token.get_secret_value() if settings.internal_token else None
    poll_seconds = settings.gateway.residency_poll_seconds
    fleet = Fleet(max_age=MISSED_POLLS * poll_seconds)
    announced = Announced(database, settings.gateway.worker_list_seconds)
    metrics = GatewayMetrics(registry)
    return Services(
        settings=settings,
        database=database,
        store=store,
        base=base,
        inference=InferenceClient(http, database, token, announced, fleet, metrics),
        residency=ResidencyPoll(database, fleet, token, poll_seconds, metrics),
        http=http,
        registry=registry,
        metrics=metrics,
        stopping=Event(),
    )


async def close_services(services: Services) -> None:
    services.stopping.set()
    services.base.stop()
    await services.http.aclose()
    services.database.dispose()


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Parts = Annotated[Services, Depends(services_of)]
