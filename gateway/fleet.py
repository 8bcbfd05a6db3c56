"""What the gateway knows of the inference workers: their latest reports, and who did not answer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from core.residency import ResidencyReport
from gateway.holdings import Holding, Holdings, Keys, holding_of
from gateway.placement import Known


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What a worker's latest report says it holds, and when it came (seconds of the caller's clock)."""

    at: float
    holding: Holding


class Fleet:
    """Without clock, lock or network; belongs to the event loop. A report older than `max_age` counts for nothing.

    `holdings` is made of `fresh` reports by whoever follows the workers: at a thousand of them it takes a thread.
    """

    def __init__(self, max_age: float) -> None:
        self.holdings = Holdings({})
        self._max_age = max_age
        self._heard: dict[str, Heard] = {}
        self._full: set[str] = set()
        self._lost: set[str] = set()

    def hear(self, worker_id: str, report: ResidencyReport, now: float) -> None:
        """Raises `ValueError` where the report names something that is no digest."""
        self._heard[worker_id] = Heard(now, holding_of(report))
        if report.running + report.waiting >= report.capacity:
            self._full.add(worker_id)
        else:
            self._full.discard(worker_id)

    def reach(self, worker_id: str) -> None:
        """It answered, whatever it said."""
        self._lost.discard(worker_id)

    def lose(self, worker_id: str) -> None:
        """It did not answer: others are preferred until it does."""
        self._lost.add(worker_id)
        self._heard.pop(worker_id, None)

    def keep(self, worker_ids: Collection[str]) -> None:
        """Forgets all workers but these."""
        self._heard = {id_: heard for id_, heard in self._heard.items() if id_ in worker_ids}
        self._full.intersection_update(worker_ids)
        self._lost.intersection_update(worker_ids)

    def fresh(self, now: float) -> dict[str, Holding]:
        """By worker id, what is held where a report of it is not too old."""
        return {id_: heard.holding for id_, heard in self._heard.items() if self._is_fresh(heard, now)}

    def known(self, bank: Keys, now: float) -> Known:
        """What `preferred` wants to know for a tenant whose adapters have these keys."""
        held = self.holdings.coverage(bank)
        coverage = {id_: worth for id_, worth in held.items() if self._is_fresh(self._heard.get(id_), now)}
        full = {id_ for id_ in self._full if self._is_fresh(self._heard.get(id_), now)}
        return Known(coverage, full, self._lost)

    def _is_fresh(self, heard: Heard | None, now: float) -> bool:
        return heard is not None and now - heard.at <= self._max_age
