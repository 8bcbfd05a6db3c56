"""A worker's life: load, announce, follow the truth, say goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from threading import Lock
from typing import Any

from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from core.encryption.data_keys import DataKeys
from core.encryption.sealed_store import open_sealed_store
from core.errors import LatentBankError
from core.internal import PROOF
from core.logs import get_logger
from core.metrics import InferenceMetrics
from core.settings import Settings
from core.truth import workers
from core.truth.database import Database
from workers.inference.api.server import Worker
from workers.inference.assembly import open_service
from workers.inference.following import Following
from workers.inference.scheduler import Engine
from workers.inference.tiers.node_sweep import NodeSweep
from workers.inference.tiers.pins import Pins

ADMISSIONS = 32
"""Questions that are made ready at once, before they come to the engine."""

log = get_logger(__name__)


class Life:
    """`around` is the server's lifespan. `fail` is called where the worker can't come up, so that the server ends."""

    def __init__(
        self,
        worker: Worker,
        settings: Settings,
        database: Database,
        metrics: InferenceMetrics,
        fail: Callable[[], None],
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._database = database
        self._metrics = metrics
        self._fail = fail
        self.id = worker.access.worker_id
        self._sweep: NodeSweep | None = None
        self._following: Following | None = None
        self._keys: DataKeys | None = None
        self._announcing = Lock()
        self._left = False

    @asynccontextmanager
    async def around(self, _: FastAPI) -> AsyncIterator[None]:
        """The base loads beside the server, which already answers `/health`."""
        # A question may wait for a download; that must not hold up those whose adapters are here.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(ADMISSIONS, "admit"))
        living = asyncio.create_task(self._live())
        try:
            yield
        finally:
            living.cancel()
            with suppress(asyncio.CancelledError):
                await living
            await asyncio.to_thread(self._end)

    async def _live(self) -> None:
        try:
            await asyncio.to_thread(self._load)
        except Exception:
            # The process's boundary: whatever it was, there is no worker without it.
            log.exception("the worker can't come up")
            self._fail()
            return
        await asyncio.gather(self._repeat(self._announce), self._repeat(self._follow))

    async def _repeat(self, duty: Callable[[], None]) -> None:
        """In a thread of its own: neither admissions nor a slow download keep the worker from announcing itself."""
        thread = ThreadPoolExecutor(1, duty.__name__)
        try:
            while True:
                await asyncio.get_running_loop().run_in_executor(thread, self._try, duty)
                await asyncio.sleep(self._settings.worker_ttl_seconds / 3)
        finally:
            thread.shutdown(wait=False)

    def _load(self) -> None:
        store = open_sealed_store(self._settings, self._database)
        service = open_service(self._settings, self._database, store, self._metrics)
        engine = Engine(service.passer, self._metrics, self._settings.serving)
        engine.start()
        self._sweep = NodeSweep(self._database, service.residency, self._settings.serving.node_sweep_seconds)
        self._following = Following(
            self._present, oldest=service.oldest, letting_go=lambda: service.residency.letting_go
        )
        self._keys = store.keys
        self._worker.pins = Pins(self._database, service.banks, service.residency, self.id)
        self._worker.engine, self._worker.service = engine, service
        log.info("ready", model=service.base.description.name, digest=service.base.description.digest)

    def _try(self, duty: Callable[[], object]) -> bool:
        """Whether it was done, and did not say that it was not."""
        try:
            return duty() is not False
        except (SQLAlchemyError, LatentBankError) as problem:
            log.warning("a heartbeat failed; the next may not", duty=duty.__name__, problem=repr(problem))
        except Exception:
            # The boundary of one beat: a worker that stops announcing itself is never asked again.
            log.exception("a heartbeat failed; the next may not", duty=duty.__name__)
        return False

    def _announce(self) -> None:
        """Says that the worker is there, while it works."""
        engine = self._worker.engine
        with self._announcing:
            if engine is None or not engine.alive or self._left:
                return
            with self._database.begin() as connection:
                ttl = self._settings.worker_ttl_seconds
                workers.announce(connection, self.id, "inference", self._url(), self._info(), ttl)

    def _follow(self) -> None:
        """Follows the truth of memories that are pinned, of banks that are held, of what is on the node's disk.

        Each by itself: what is deleted has to go, whatever is wrong with a memory that is pinned.
        """
        begun = self._following.begin() if self._following is not None else None
        done = []
        if self._worker.pins is not None:
            done.append(self._try(self._worker.pins.follow))
        if self._worker.service is not None:
            done.append(self._try(self._worker.service.follow))
        if self._sweep is not None:
            done += [self._try(self._sweep.sweep), self._sweep.clean]
        if self._keys is not None:
            self._keys.expire()
        if self._following is not None and begun is not None and all(done):
            self._following.end(begun)

    def _present(self) -> datetime:
        """By the truth's clock."""
        with self._database.read() as connection:
            return self._database.now(connection)

    def leave(self) -> None:
        """Withdraws the worker from the truth, for good: gateways send it nothing more once they have read that.

        What it has begun, and what still comes, it answers.
        """
        self._worker.leaving = True
        try:
            with self._announcing:
                self._left = True
                with self._database.begin() as connection:
                    workers.withdraw(connection, self.id)
        except SQLAlchemyError as problem:
            log.warning("could not say goodbye; the announcement runs out", problem=repr(problem))

    def _end(self) -> None:
        if not self._left:
            self.leave()
        if self._worker.engine is not None:
            self._worker.engine.stop()

    def _url(self) -> str:
        serving = self._settings.serving
        scheme = "https" if serving.tls_cert is not None else "http"
        return serving.advertise_url or f"{scheme}://{serving.host}:{serving.port}"

    def _info(self) -> dict[str, Any]:
        assert self._worker.service is not None
        base = self._worker.service.base.description
        until = self._following.until if self._following is not None else None
        followed = {} if until is None else {"followed": until.isoformat()}
        proof = {PROOF: self._worker.access.proof(self._url())}
        return {"base_digest": base.digest, "name": base.name, **followed, **proof}
