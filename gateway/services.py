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
from core.internal import secrets_of
from core.metrics import GatewayMetrics
from core.settings import Settings
from core.storage.object_store import ObjectStore
from core.truth.database import Database
from core.truth.schema import ready_for_work
from gateway.announced import Announced
from gateway.base_model import BasePreparation
from gateway.fleet import Fleet
from gateway.inference_client import InferenceClient, open_http
from gateway.rates import RequestRates
from gateway.residency_poll import MISSED_POLLS, ResidencyPoll
from gateway.signing import signing, workers_tls
from gateway.sse import EventStreams
from gateway.trusted import Trusted


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
    rates: RequestRates
    stopping: Event
    trusted: Trusted
    event_streams: EventStreams


def open_services(settings: Settings) -> Services:
    """Opens everything; reaches the database (its tables), and starts preparing the base model in a thread."""
    database = Database(settings.resolved_database_url)
    ready_for_work(database, migrate=settings.migrate_at_start)
    store = open_sealed_store(settings, database)
    base = BasePreparation(lambda: ensure_prepared(settings.base_model, settings.base_dir))
    base.start()
    registry = CollectorRegistry()
    shared = secrets_of(settings)
    sign, verify = signing(shared), workers_tls(settings.gateway.worker_ca)
    answer_seconds = settings.gateway.answer_seconds
    http = open_http(answer_seconds, verify)
    poll_seconds = settings.gateway.residency_poll_seconds
    fleet = Fleet(max_age=MISSED_POLLS * poll_seconds)
    trusted = Trusted(database, shared)
    announced = Announced(trusted.workers, settings.gateway.worker_list_seconds)
    metrics = GatewayMetrics(registry)
    stopping = Event()
    return Services(
        settings=settings,
        database=database,
        store=store,
        base=base,
        inference=InferenceClient(http, database, sign, answer_seconds, announced, fleet, metrics),
        residency=ResidencyPoll(trusted.workers, fleet, sign, poll_seconds, metrics, verify),
        http=http,
        registry=registry,
        metrics=metrics,
        rates=RequestRates(settings.resolved_broker_url, settings.limits.requests_per_minute, metrics),
        stopping=stopping,
        trusted=trusted,
        event_streams=EventStreams(
            settings.limits.event_streams,
            settings.limits.event_stream_seconds,
            settings.gateway.event_poll_seconds,
            stopping,
        ),
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
