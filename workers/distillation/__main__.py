"""`python -m workers.distillation`: the supervisor of one distillation worker.

It prepares the base model (in a child), runs a Celery worker with one pool process (pool.py), announces itself, and
serves metrics. SIGTERM or Ctrl-C is a planned shutdown: the running jobs go back to the queue and their attempts do not
count. No process but the trainer's ever imports torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path
from threading import Event
from typing import Any

from celery.signals import worker_ready, worker_shutting_down
from sqlalchemy import Connection

from core.base_model.description import BaseDescription
from core.base_model.prepare import ensure_prepared
from core.encryption.sealed_store import open_sealed_store
from core.ids import new_id
from core.jobs.doorbells import QUEUE
from core.logs import bind, get_logger
from core.metrics import enable_multiprocess, multiprocess_registry
from core.metrics_server import serve_metrics
from core.settings import Settings
from core.starting import run_process
from core.truth.database import Database
from core.truth.schema import ready_for_work
from workers.distillation.announcing import Announcement
from workers.distillation.celery_app import create_app
from workers.distillation.guard import adopt_orphans, reap_strangers
from workers.distillation.hearing import Hearing
from workers.distillation.launch import trainer_command, trainer_environment
from workers.distillation.pool import Command, PoolProcess
from workers.distillation.scratch import scratch_directory

_UNHEARD_RINGS = 2
"""Doorbells that a worker with nothing to do may miss before it takes itself for deaf."""

_log = get_logger(__name__)


def main() -> int:
    return run_process("distillation", supervise)


def supervise(settings: Settings, command: Command = trainer_command) -> int:
    """Runs until it is told to stop; returns the exit code. `command` starts the trainer's group."""
    worker_id = new_id("worker")
    database = Database(settings.resolved_database_url)
    ready_for_work(database, migrate=settings.migrate_at_start)
    open_sealed_store(settings, database)  # the master key, before the base is prepared and anything is claimed
    trainer_environment(settings.distillation, os.environ)
    base = ensure_prepared(settings.base_model, settings.base_dir)
    with bind(worker_id=worker_id), scratch_directory(settings.data_dir / "runs", worker_id) as scratch:
        try:
            return _serve(settings, command, worker_id, database, base, scratch)
        finally:
            database.dispose()


def _serve(
    settings: Settings, command: Command, worker_id: str, database: Database, base: BaseDescription, scratch: Path
) -> int:
    # One byte of memory shared with the pool process; no lock that a killed process could leave held.
    stopping = multiprocessing.RawValue("b", 0)
    enable_multiprocess(scratch / "metrics")
    address = settings.distillation.host
    metrics = serve_metrics(settings.distillation.metrics_port, address, multiprocess_registry(scratch / "metrics"))
    hearing = Hearing(_UNHEARD_RINGS * settings.jobs.doorbell_timeout_seconds)
    process = PoolProcess(settings, worker_id, base, scratch, command, lambda: bool(stopping.value), hearing)
    app = create_app(settings, process)
    url = f"http://{address}:{metrics.port}"
    deaf = Event()

    def listened(connection: Connection) -> None:
        reap_strangers()
        if hearing.is_deaf(connection):
            _log.error("no doorbell reaches this worker any more; it ends, to be started again")
            deaf.set()
            os.kill(os.getpid(), signal.SIGTERM)

    announcement = Announcement(database, worker_id, url, _info(settings, base), settings.worker_ttl_seconds, listened)

    def began(**_: Any) -> None:
        announcement.begin()
        _log.info("distillation worker ready", ranks=settings.distillation.ranks, metrics=f"{url}/metrics")

    def told_to_stop(**_: Any) -> None:
        stopping.value = 1
        announcement.stop()

    adopt_orphans()  # of a pool process that died together with its group's guard: the next one ends them
    worker_ready.connect(began, weak=False)
    worker_shutting_down.connect(told_to_stop, weak=False)
    worker = app.Worker(
        hostname=f"{worker_id}@{socket.gethostname()}",
        queues=[QUEUE],
        concurrency=1,
        pool="prefork",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
    )
    try:
        worker.start()
    finally:
        announcement.end()
        metrics.close()
    return 1 if deaf.is_set() else int(worker.exitcode or 0)


def _info(settings: Settings, base: BaseDescription) -> dict[str, Any]:
    return {
        "base_digest": base.digest,
        "name": base.name,
        "ranks": settings.distillation.ranks,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


if __name__ == "__main__":
    sys.exit(main())
