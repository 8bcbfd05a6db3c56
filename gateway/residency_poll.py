"""Asks every inference worker what it holds, again and again, for as long as the gateway runs."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
from pydantic import TypeAdapter
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from core.internal import INTERNAL_HEADER
from core.logs import get_logger
from core.metrics import GatewayMetrics
from core.residency import RESIDENCY_PATH, ResidencyReport
from core.truth.records import WorkerRecord
from gateway.fleet import Fleet
from gateway.holdings import Holdings
from gateway.signing import Sign

MISSED_POLLS = 3
"""After so many polls without an answer a report is too old."""

_MOST_AT_ONCE = 100
_ANSWER_SECONDS = 2.0
_PATIENCE = 0.1
"""The share of the time between two rounds for which a round waits for answers."""
_REPORTS = TypeAdapter(ResidencyReport)
_log = get_logger(__name__)


class ResidencyPoll:
    """Each worker is asked in a task of its own, so that one that is slow or gone holds up no other."""

    def __init__(
        self,
        workers: Callable[[], list[WorkerRecord]],
        fleet: Fleet,
        sign: Sign,
        seconds: float,
        metrics: GatewayMetrics,
        verify: ssl.SSLContext,
    ) -> None:
        """`workers` reads the truth; `sign` makes the header for a worker by its id, method, path and body."""
        self._workers = workers
        self._fleet = fleet
        self._sign = sign
        self._verify = verify
        self._seconds = seconds
        self._polls = metrics.residency_polls
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)

    async def run(self) -> None:
        """Until cancelled."""
        async with httpx.AsyncClient(timeout=_ANSWER_SECONDS, trust_env=False, verify=self._verify) as http:
            try:
                while True:
                    await self._try_round(http)
                    await asyncio.sleep(self._seconds)
            finally:
                for task in self._asking.values():
                    task.cancel()
                await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _try_round(self, http: httpx.AsyncClient) -> None:
        try:
            await self._round(http)
        except SQLAlchemyError as problem:
            _log.warning("the workers could not be listed; the next time they may", problem=repr(problem))
        except Exception:  # noqa: BLE001 - a round's boundary: without reports questions are routed by hashing alone
            _log.exception("a round of reports failed; the next may not")

    async def _round(self, http: httpx.AsyncClient) -> None:
        workers = await run_in_threadpool(self._workers)
        self._fleet.keep({worker.id for worker in workers})
        for worker in workers:
            if worker.id not in self._asking:
                self._asking[worker.id] = asyncio.create_task(self._ask(http, worker))
        if self._asking:
            # Who takes longer is heard in a later round.
            await asyncio.wait(list(self._asking.values()), timeout=_PATIENCE * self._seconds)
        self._fleet.holdings = await run_in_threadpool(Holdings, self._fleet.fresh(time.monotonic()))

    async def _ask(self, http: httpx.AsyncClient, worker: WorkerRecord) -> None:
        try:
            async with self._turns:
                await self._hear(http, worker)
        finally:
            del self._asking[worker.id]

    async def _hear(self, http: httpx.AsyncClient, worker: WorkerRecord) -> None:
        try:
            headers = {INTERNAL_HEADER: self._sign(worker.id, "", "GET", RESIDENCY_PATH, None)}
            answer = await http.get(worker.url.rstrip("/") + RESIDENCY_PATH, headers=headers)
        except httpx.TransportError as problem:
            _log.debug("inference worker did not report", worker_id=worker.id, reason=repr(problem))
            self._polls.labels("unreachable").inc()
            self._fleet.lose(worker.id)
            return
        self._fleet.reach(worker.id)
        if answer.status_code != 200:
            self._polls.labels("not_ready" if answer.status_code == 503 else "refused").inc()
            return
        try:
            self._fleet.hear(worker.id, _REPORTS.validate_json(answer.content), time.monotonic())
            self._polls.labels("reported").inc()
        except ValueError as problem:
            self._polls.labels("malformed").inc()
            _log.warning("inference worker reported in no known shape", worker_id=worker.id, problem=repr(problem))


@asynccontextmanager
async def following(poll: ResidencyPoll) -> AsyncIterator[None]:
    """The workers are followed until the block ends."""
    task = asyncio.create_task(poll.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
