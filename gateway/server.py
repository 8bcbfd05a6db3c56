"""The gateway's HTTP server, which leaves its balancer before it stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from core.http.connections import bounded
from core.logs import get_logger
from core.settings import Settings
from gateway.app import create_app
from gateway.services import Services

_log = get_logger(__name__)


class Server(uvicorn.Server):
    """At the first signal it only says that it is not ready any more, so that balancers turn away from it.

    Endless answers end at once; others go on, with `Connection: close`. After `drain_seconds`, or at a second signal,
    it stops listening, waits for the answers under way, and ends.
    """

    def __init__(self, config: uvicorn.Config, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(config)
        self._services = services
        self._clock = clock
        self._leaves_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._services.stopping.set()
        drain_seconds = self._services.settings.gateway.drain_seconds
        if self._leaves_at is not None or not drain_seconds or not self.started:
            super().handle_exit(sig, frame)
            return
        self._leaves_at = self._clock() + drain_seconds
        _log.info("gateway leaves its balancer", drain_seconds=drain_seconds)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._leaves_at is not None and self._clock() >= self._leaves_at:
            self.should_exit = True
        return await super().on_tick(counter)


def server_config(settings: Settings, services: Services) -> uvicorn.Config:
    limits = settings.limits
    return uvicorn.Config(
        create_app(services),
        http=bounded(HttpToolsProtocol, limits, lambda why: services.metrics.refused.labels(why).inc()),
        ws="none",
        timeout_keep_alive=limits.idle_seconds,
        host=settings.gateway.host,
        port=settings.gateway.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.gateway.grace_seconds),
    )
