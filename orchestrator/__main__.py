"""`python -m orchestrator`: dispatcher, reaper, garbage collector, counts and telemetry until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys
import time
from threading import Event

from prometheus_client import CollectorRegistry

from core.encryption.master_keys import open_master_keys
from core.logs import get_logger
from core.metrics import OrchestratorMetrics
from core.metrics_server import serve_metrics
from core.settings import Settings
from core.starting import run_process
from core.storage.opening import open_store
from core.truth.database import Database
from core.truth.schema import ready_for_work
from orchestrator.celery_app import CeleryDoorbells, create_app
from orchestrator.dispatcher import Dispatcher
from orchestrator.forgetting import Forgetting
from orchestrator.garbage import GarbageCollector
from orchestrator.periodic import Periodic
from orchestrator.reaper import Reaper
from orchestrator.recounting import Recounting
from orchestrator.rewrapping import Rewrapping
from orchestrator.telemetry import StoreProbe, Telemetry

_RECOUNT_SECONDS = 60.0
_TELEMETRY_SECONDS = 2.0
_STORE_SECONDS = 15.0
_GOODBYE_SECONDS = 10.0
_AWAKE_SECONDS = 0.5


def run(settings: Settings, stop: Event) -> int:
    """Works until `stop` is set; returns the process's exit code."""
    log = get_logger("orchestrator")
    registry = CollectorRegistry()
    metrics = OrchestratorMetrics(registry)
    database = Database(settings.resolved_database_url)
    ready_for_work(database, migrate=settings.migrate_at_start)
    doorbells = CeleryDoorbells(create_app(settings))
    store = open_store(settings)
    garbage = GarbageCollector(database, store, settings.jobs, metrics)
    forgetting = Forgetting(database, store, garbage, stop.is_set)
    rewrapping = Rewrapping(database, open_master_keys(settings))
    pace = settings.jobs
    duties = [
        Periodic(
            "dispatch", pace.dispatch_interval_seconds, Dispatcher(database, doorbells, pace, metrics).run_once, stop
        ),
        Periodic("reap", pace.reap_interval_seconds, Reaper(database, pace, metrics).run_once, stop),
        Periodic("forget", pace.reap_interval_seconds, forgetting.run_once, stop),
        Periodic("collect", pace.garbage_interval_seconds, garbage.collect, stop),
        Periodic("recount", _RECOUNT_SECONDS, Recounting(database).run_once, stop),
        Periodic("rewrap", pace.garbage_interval_seconds, rewrapping.run_once, stop),
        Periodic("store", _STORE_SECONDS, StoreProbe(store, metrics).run_once, stop),
        Periodic("telemetry", _TELEMETRY_SECONDS, Telemetry(database, metrics).run_once, stop),
    ]
    server = serve_metrics(settings.orchestrator.metrics_port, settings.orchestrator.host, registry)
    for duty in duties:
        duty.start()
    log.info("orchestrator is up", metrics_port=server.port)
    # The kernel may give a signal to another thread; its handler runs here, but only once this thread is awake.
    while not stop.wait(_AWAKE_SECONDS):
        pass
    give_up = time.monotonic() + _GOODBYE_SECONDS
    done = all([duty.join(max(0.0, give_up - time.monotonic())) for duty in duties])
    server.close()
    doorbells.close()
    database.dispose()
    log.info("orchestrator is down", clean=done)
    return 0 if done else 1


def main() -> int:
    stop = Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, frame: stop.set())
    return run_process("orchestrator", lambda settings: run(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
