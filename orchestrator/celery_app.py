"""The ringing end of the doorbells: a Celery app that sends and never works."""

from __future__ import annotations

from typing import Protocol

from celery import Celery
from celery.exceptions import CeleryError
from kombu.exceptions import KombuError, OperationalError

from core.errors import Unavailable
from core.jobs.doorbells import ANSWER_SECONDS, QUEUE, TASK_NAME, celery_settings
from core.settings import Settings


class Doorbells(Protocol):
    """Something that can tell a worker of a job."""

    def ring(self, job_id: str) -> None:
        """Raises `Unavailable` where the broker did not take it."""
        ...


class CeleryDoorbells:
    """Rings by Celery; the message is the job's id."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def ring(self, job_id: str) -> None:
        try:
            self._app.send_task(
                TASK_NAME, args=[job_id], queue=QUEUE, ignore_result=True, confirm_timeout=ANSWER_SECONDS
            )
        except (CeleryError, KombuError, OperationalError, OSError) as problem:
            raise Unavailable(f"The broker did not take a doorbell: {problem}") from problem

    def close(self) -> None:
        self._app.close()


def create_app(settings: Settings) -> Celery:
    app = Celery("latentbank.orchestrator", set_as_current=False)
    app.conf.update(celery_settings(settings.resolved_broker_url, settings.data_dir))
    return app
