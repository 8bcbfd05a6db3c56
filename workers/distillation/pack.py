"""One run of the trainer's group for several attempts, each of which ends by itself, the moment its memory is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from core.errors import TrainerLost
from core.logs import get_logger
from core.truth import jobs
from workers.distillation.attempt import Attempt, Outcome
from workers.distillation.group import Interrupted, Interruption
from workers.distillation.runs import MemoryResult, Progress, RunRequest
from workers.distillation.together import THREADS, advance_together, publish_together
from workers.distillation.worker import Distillation

_log = get_logger(__name__)


class Pack:
    """Follows its run (`group.Follower`). One memory's failure, cancel or lost lease leaves the others alone.

    A run that is lost costs every unfinished attempt; what was published stays.
    """

    def __init__(self, at: Distillation, attempts: Sequence[Attempt]) -> None:
        self._at = at
        self._attempts = attempts
        self._running: dict[str, Attempt] = {}
        self._answered: set[str] = set()
        self._broken = False

    def run(self) -> None:
        """Every attempt has ended when it returns."""
        with ThreadPoolExecutor(min(THREADS, len(self._attempts)), thread_name_prefix="begin") as threads:
            begun = list(threads.map(Attempt.begin, self._attempts))
        contexts = {}
        for attempt, context in zip(self._attempts, begun, strict=True):
            if context is not None:
                contexts[attempt.memory_id] = context
                self._running[attempt.memory_id] = attempt
        if not contexts:
            return
        self._at.metrics.pack_jobs.observe(len(contexts))
        self._note_company()
        try:
            result = self._at.group.run(lambda directory: self._request(directory, contexts), self)
            self._give_up_rest(TrainerLost.code, result.error or "The training processes answered without a result.")
        except Interrupted as interrupted:
            _log.info("the run was ended early", why=interrupted.why)
            for attempt in self._attempts:
                attempt.release()
        except TrainerLost as problem:
            _log.warning("the trainer was lost", problem=problem.message, last_words=problem.last_words)
            self._give_up_rest(problem.code, problem.message)
        except Exception:  # noqa: BLE001 - the boundary of one run
            _log.exception("the run failed unexpectedly")
            self._give_up_rest("internal_error", "Something went wrong in the distillation worker.")
        if self._broken and self._at.group.alive:
            # After an error that the trainer did not foresee, its processes are nothing to train the next pack with.
            _log.warning("the group is replaced", last_words=self._at.group.last_words())
            self._at.group.kill()

    def on_news(self, lines: Sequence[Progress], ended: Sequence[MemoryResult]) -> None:
        advances = [
            advance
            for line in lines
            if (attempt := self._running.get(line.memory_id)) is not None
            and (advance := attempt.report(line)) is not None
        ]
        advance_together(self._at, list(self._running.values()), advances)
        known = [result for result in ended if result.memory_id in self._running]
        self._answered |= {result.memory_id for result in known}
        self._broken = self._broken or any(result.unforeseen for result in known)
        publish_together(self._at, [(self._running[result.memory_id], result) for result in known])

    def left_out(self) -> list[str]:
        for attempt in self._running.values():
            attempt.watch()
        ended = {memory_id for memory_id, attempt in self._running.items() if not attempt.open}
        return sorted(ended - self._answered)

    def interruption(self) -> Interruption | None:
        if any(attempt.open for attempt in self._running.values()):
            return Interruption.STOPPING if self._at.stopping() else None
        if any(attempt.outcome is Outcome.LEASE_LOST for attempt in self._running.values()):
            return Interruption.LEASE_LOST
        return Interruption.CANCELLED if self.left_out() else None

    def _note_company(self) -> None:
        """Each was claimed as if alone. Unsaid, each tenant pays for the whole run, until its debt has faded."""
        if len(self._running) == 1:
            return
        try:
            with self._at.database.begin() as connection:
                jobs.run_together(connection, [attempt.claim for attempt in self._running.values()])
        except SQLAlchemyError as problem:
            _log.warning("the pack could not be noted", problem=str(problem))

    def _give_up_rest(self, code: str, message: str) -> None:
        for attempt in self._attempts:
            attempt.give_up(code, message)

    def _request(self, directory: Path, contexts: Mapping[str, bytes]) -> RunRequest:
        settings = self._at.settings
        return RunRequest(
            run_id=directory.name,
            base_reference=settings.base_model,
            base_dir=str(settings.base_dir),
            encoder=settings.encoder,
            recipe=settings.recipe.model_dump(mode="json"),
            memories=tuple(
                self._running[memory_id].place(directory, context) for memory_id, context in contexts.items()
            ),
        )
