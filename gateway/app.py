"""The gateway's HTTP application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from gateway.errors import install_errors
from gateway.middleware import RequestScope
from gateway.openapi import install_openapi
from gateway.residency_poll import following
from gateway.routes import audit, chat, deletions, export, jobs, keys, memories, ops, own_tenant, tenants, usage
from gateway.services import Services, close_services


def create_app(services: Services) -> FastAPI:
    """All routes over `services`, which are closed when the application shuts down."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with following(services.residency):
            yield
        await close_services(services)

    app = FastAPI(title="LatentBank", version=version("latentbank"), lifespan=lifespan, redirect_slashes=False)
    app.state.services = services
    for routes in (memories, jobs, usage, chat, own_tenant, keys, audit, deletions, export, tenants, ops):
        app.include_router(routes.router)
    app.include_router(keys.of_tenants)
    app.include_router(audit.of_tenants)
    install_errors(app)
    install_openapi(app, services.settings.limits)
    app.add_middleware(
        RequestScope,
        metrics=services.metrics,
        most_requests=services.settings.limits.requests,
        stopping=services.stopping,
    )
    return app
