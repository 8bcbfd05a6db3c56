"""The worker's Celery application: one task, whose message is a doorbell."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import setup_logging, task_postrun, worker_process_init, worker_process_shutdown

from core.jobs.doorbells import QUEUE, TASK_NAME, celery_settings
from core.settings import Settings
from workers.distillation.pool import PoolProcess


def create_app(settings: Settings, process: PoolProcess) -> Celery:
    """An application with the settings of jobs.md whose pool process holds `process`.

    Celery's signals are global, and keep only weak references unless told otherwise: one application per process.
    """
    app = Celery("latentbank.distillation")
    app.conf.update(celery_settings(settings.resolved_broker_url, settings.data_dir))
    app.conf.update(task_default_queue=QUEUE, worker_hijack_root_logger=False, worker_redirect_stdouts=False)

    @app.task(name=TASK_NAME)
    def distil(job_id: str) -> None:
        process.perform(job_id)

    def opened(**_: Any) -> None:
        process.open()

    def closed(**_: Any) -> None:
        process.close()

    def counted(state: str | None = None, **_: Any) -> None:
        process.count((state or "unknown").lower())

    worker_process_init.connect(opened, weak=False)
    worker_process_shutdown.connect(closed, weak=False)
    task_postrun.connect(counted, weak=False)
    # Connected, it keeps Celery from setting up logs of its own.
    setup_logging.connect(_leave_logs_alone, weak=False)
    return app


def _leave_logs_alone(**_: Any) -> None:
    return
