"""What Celery's one pool process holds from its fork to its end: connections, metrics, and the warm group.

The pool process owns the group because the tasks run in it: it stays between tasks (concurrency 1, no limit of tasks
per child), its death ends the group by the guard's pipe, and the parent's death ends it by the kernel (Celery asks for
that with PR_SET_PDEATHSIG). Meanwhile the parent keeps up the broker's connection, the announcement and the metrics'
port, however long a job lasts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from core.base_model.description import BaseDescription
from core.encryption.sealed_store import open_sealed_store
from core.metrics import DistillationMetrics
from core.settings import Settings
from core.truth.database import Database
from workers.distillation.attempt import Outcome
from workers.distillation.exports import Exports
from workers.distillation.group import TrainerGroup
from workers.distillation.guard import adopt_orphans, kill_descendants, kill_strangers
from workers.distillation.hearing import Hearing
from workers.distillation.launch import trainer_environment
from workers.distillation.task import perform
from workers.distillation.worker import Distillation

Command = Callable[[Settings, Path, Mapping[str, str]], list[str]]
"""Makes the command line that starts a group, from the settings, its inbox and its environment."""


@dataclass(slots=True)
class PoolProcess:
    """Made before the fork, opened and closed after it."""

    settings: Settings
    worker_id: str
    base: BaseDescription
    scratch: Path
    command: Command
    stopping: Callable[[], bool]
    hearing: Hearing
    supervisor: int = field(default_factory=os.getpid)
    _distillation: Distillation | None = field(default=None, init=False)

    def open(self) -> None:
        """Connects, and starts the group, so that it warms up before the first doorbell."""
        settings = self.settings
        database = Database(settings.resolved_database_url)
        store = open_sealed_store(settings, database)
        environment = trainer_environment(settings.distillation, os.environ)
        group = TrainerGroup(
            lambda inbox: self.command(settings, inbox, environment),
            environment,
            self.scratch,
            silence_seconds=settings.distillation.start_timeout_seconds,
            cancel_grace_seconds=settings.distillation.cancel_grace_seconds,
            end_strays=lambda: kill_descendants(os.getpid()),
        )
        kill_strangers(self.supervisor)  # of a pool process before this one that died together with its guard
        adopt_orphans()  # those of a killed guard come to this process, whose only children are the group's
        self._distillation = Distillation(
            settings=settings,
            worker_id=self.worker_id,
            database=database,
            store=store,
            group=group,
            base=self.base,
            exports=Exports(store, self.base, settings.recipe, settings.encoder),
            metrics=DistillationMetrics(CollectorRegistry()),
            stopping=self.stopping,
        )
        group.start()
        self._distillation.metrics.group_up.set(1)

    def perform(self, job_id: str) -> Outcome:
        """Answers a doorbell. Celery only logs what `open` raises at the fork, so it may still have to be opened."""
        if self._distillation is None:
            self.open()
        assert self._distillation is not None
        self.hearing.noted()
        try:
            return perform(self._distillation, job_id)
        finally:
            self.hearing.noted()

    def count(self, state: str) -> None:
        """Counts a delivery by the state that Celery gave it."""
        if self._distillation is not None:
            self._distillation.metrics.tasks.labels(state).inc()

    def close(self) -> None:
        """Ends the group and the connections."""
        if self._distillation is None:
            return
        self._distillation.group.kill()
        self._distillation.metrics.group_up.set(0)
        self._distillation.database.dispose()
