"""`python -m gateway`: serves the HTTP API until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys

from sqlalchemy.exc import SQLAlchemyError

from core.errors import LatentBankError
from core.logs import configure_logs, get_logger
from core.settings import Settings
from gateway.server import Server, server_config
from gateway.services import open_services

_log = get_logger(__name__)


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


if __name__ == "__main__":
    sys.exit(main())
