"""`python -m gateway`: serves the HTTP API until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys

from core.logs import get_logger
from core.settings import Settings
from core.starting import run_process
from gateway.server import Server, server_config
from gateway.services import open_services

_log = get_logger(__name__)


def main() -> int:
    return run_process("gateway", serve)


def serve(settings: Settings) -> int:
    services = open_services(settings)
    server = Server(server_config(settings, services), services)
    # uvicorn raises the signal again when it has stopped; taken by the same handler, the process ends with 0.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, server.handle_exit)
    _log.info("gateway listens", host=settings.gateway.host, port=settings.gateway.port)
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
