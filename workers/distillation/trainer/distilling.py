"""From a context to an adapter with its gate and index: the phases of one memory, in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from core.errors import Unavailable
from workers.distillation.trainer.ranks import Ranks
from workers.distillation.trainer.requests import MemoryRequest, Outcome, Reporter, RunRequest


class Distiller:
    """Base model and encoder, loaded once and kept warm between runs."""

    def __init__(self, ranks: Ranks, deepspeed_config: Path | None = None) -> None:
        self.ranks = ranks

    def warm(self, base_reference: str, base_dir: Path, encoder: str) -> None:
        """Loads base and encoder now, if others or none are loaded."""

    def distil(
        self, request: RunRequest, memory: MemoryRequest, reporter: Reporter, check: Callable[[], None]
    ) -> Outcome:
        check()
        reporter.progress("self_study", 0.0, "started", {"memory_id": memory.memory_id})
        raise Unavailable("The trainer is not written yet.")
