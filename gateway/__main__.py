"""`python -m gateway`: serves the HTTP API until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from core.errors import LatentBankError
from core.http.connections import bounded
from core.logs import configure_logs, get_logger
from core.settings import Settings
from gateway.app import create_app
from gateway.services import Services, open_services

GRACE_SECONDS = 15
"""How long answers under way may go on after the signal."""

_log = get_logger(__name__)


class Server(uvicorn.Server):
    """Tells endless answers to end as soon as the signal comes; uvicorn then waits for the others."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._services.stopping.set()
        super().handle_exit(sig, frame)


def main() -> int:
    settings = Settings()
    configure_logs("gateway", settings)
    try:
        services = open_services(settings)
    except LatentBankError as problem:
        _log.error("the gateway can't start", code=problem.code, reason=problem.message)
        return 1
    except SQLAlchemyError as problem:
        _log.error("the gateway can't start: the database does not answer", exc_info=problem)
        return 1
    server = Server(server_config(settings, services), services)
    # uvicorn raises the signal again when it has stopped; taken by the same handler, the process ends with 0.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, server.handle_exit)
    _log.info("gateway listens", host=settings.gateway.host, port=settings.gateway.port)
    server.run()
    return 0 if server.started else 1


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
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


if __name__ == "__main__":
    sys.exit(main())
