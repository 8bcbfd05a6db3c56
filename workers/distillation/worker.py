"""What a distillation worker works with; `task.py` says what it does with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.base_model.description import BaseDescription
from core.metrics import DistillationMetrics
from core.settings import Settings
from core.storage.object_store import ObjectStore
from core.truth.database import Database
from workers.distillation.exports import Exports
from workers.distillation.group import TrainerGroup


@dataclass(frozen=True, slots=True)
class Distillation:
    """`stopping` says whether a planned shutdown has begun."""

    settings: Settings
    worker_id: str
    database: Database
    store: ObjectStore
    group: TrainerGroup
    base: BaseDescription
    exports: Exports
    metrics: DistillationMetrics
    stopping: Callable[[], bool]
