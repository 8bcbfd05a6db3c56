"""A tenant with jobs, and a worker with a fake trainer that is asked to do them: truth on SQLite, a store in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection

from core.ids import new_id
from core.storage.keys import context_key, revised_context_key
from core.truth import jobs, memories, revisions
from core.truth.records import Claim, Job, JobEvent, Memory, NewMemory, NewRevision, Publication
from workers.distillation.attempt import Outcome
from workers.distillation.exports import Exports
from workers.distillation.runs import MemoryResult
from workers.distillation.task import perform
from workers.distillation.worker import Distillation


@dataclass
class Bench:
    """A tenant, and a worker that is asked to do its jobs."""

    worker: Distillation
    tenant_id: str
    stop: bool = False

    def admit(self, text: str) -> str:
        """Stores a context and admits it; returns the job's id."""
        memory_id = new_id("mem")
        data = json.dumps({"kind": "text", "title": "A title", "text": text}).encode()
        key = context_key(self.tenant_id, memory_id)
        self.worker.store.put(key, data)
        new = NewMemory(
            id=memory_id,
            tenant_id=self.tenant_id,
            collection="default",
            title="A title",
            metadata={},
            kind="text",
            context_key=key,
            context_sha256=hashlib.sha256(data).hexdigest(),
            context_bytes=len(data),
            context_tokens=1,
            base_digest=self.worker.base.digest,
            cost_estimate_seconds=1.0,
        )
        with self.worker.database.begin() as connection:
            return memories.admit(connection, new, backlog_limit=10)[1].id

    def revise(self, job_id: str, text: str) -> str:
        """Admits a new version of the job's memory; returns the new job's id."""
        old, revision = self.memory(job_id), new_id("job")
        data = json.dumps({"kind": "text", "title": old.title, "text": text}).encode()
        key = revised_context_key(self.tenant_id, old.id, revision)
        self.worker.store.put(key, data)
        new = NewRevision(
            job_id=revision,
            memory_id=old.id,
            tenant_id=self.tenant_id,
            title="A newer title",
            metadata={},
            kind="text",
            context_key=key,
            context_sha256=hashlib.sha256(data).hexdigest(),
            context_bytes=len(data),
            context_tokens=1,
            base_digest=self.worker.base.digest,
            cost_estimate_seconds=1.0,
            replaces=old.version,
        )
        with self.worker.database.begin() as connection:
            return revisions.revise(connection, new, backlog_limit=10)[1].id

    def perform(self, job_id: str) -> Outcome:
        return perform(self.worker, job_id)

    def job(self, job_id: str) -> Job:
        with self.worker.database.read() as connection:
            return jobs.get_job(connection, self.tenant_id, job_id)

    def memory(self, job_id: str) -> Memory:
        with self.worker.database.read() as connection:
            return memories.get_memory(connection, self.tenant_id, self.job(job_id).memory_id)

    def events(self, job_id: str) -> list[JobEvent]:
        with self.worker.database.read() as connection:
            return jobs.list_events(connection, self.tenant_id, job_id)

    def each_poll(self, act: Callable[[], object]) -> None:
        """From now on `act` is called again and again while the group works."""

        def stopping() -> bool:
            act()
            return self.stop

        self.worker = replace(self.worker, stopping=stopping)

    def before_commit(self, act: Callable[[Connection, Job], object]) -> None:
        """From now on `act` comes between an upload and its commit."""
        exports, database = self.worker.exports, self.worker.database

        @dataclass(frozen=True)
        class Late(Exports):
            def upload(self, claim: Claim, result: MemoryResult, directory: Path) -> Publication:
                publication = exports.upload(claim, result, directory)
                with database.begin() as connection:
                    act(connection, claim.job)
                return publication

        self.worker = replace(self.worker, exports=Late(exports.store, exports.base, exports.recipe, exports.encoder))
