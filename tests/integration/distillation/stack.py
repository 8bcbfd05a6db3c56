"""Truth, store and broker in one directory, and supervisors as real processes on them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from celery import Celery

from core.encryption.sealed_store import open_sealed_store
from core.errors import LatentBankError
from core.ids import new_id
from core.jobs.doorbells import QUEUE, TASK_NAME, celery_settings
from core.settings import JobSettings, Settings
from core.storage.keys import context_key, revised_context_key
from core.truth import jobs, memories, revisions, workers
from core.truth.database import Database
from core.truth.records import Job, Memory, NewMemory, NewRevision, Offer, WorkerRecord

WAIT_SECONDS = 40.0
# Long enough for a loaded machine's renewals, short enough to be waited for.
JOBS = JobSettings(lease_seconds=6.0, heartbeat_seconds=0.3)


@dataclass
class Stack:
    """Truth, store and broker in one directory, and the worker processes started on them."""

    settings: Settings
    database: Database
    tenant_id: str
    base_digest: str
    pids: Path
    command: Sequence[str]
    """What follows `python -m` to start a supervisor."""
    environment: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = WAIT_SECONDS
    supervisors: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        """A supervisor, announced and ready."""
        known = {worker.id for worker in self.alive()}
        process = self.start_process(self.command)
        self.eventually(lambda: {worker.id for worker in self.alive()} - known or process.poll() is not None)
        assert process.poll() is None, self.log()
        return process

    def start_process(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """`python -m` these words, on this stack, until its end."""
        environment = {
            "LATENTBANK_DATA_DIR": str(self.settings.data_dir),
            "LATENTBANK_BROKER_URL": self.settings.broker_url,
            "LATENTBANK_BASE_MODEL": self.settings.base_model,
            "LATENTBANK_ENCODER": self.settings.encoder,
            "LATENTBANK_WORKER_TTL_SECONDS": "3",
            "LATENTBANK_JOBS__LEASE_SECONDS": str(JOBS.lease_seconds),
            "LATENTBANK_JOBS__HEARTBEAT_SECONDS": str(JOBS.heartbeat_seconds),
            "LATENTBANK_DISTILLATION__METRICS_PORT": "0",
            "LATENTBANK_DISTILLATION__CANCEL_GRACE_SECONDS": "0.5",
        }
        with (self.settings.data_dir / "supervisor.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                env={**os.environ, **environment, **self.environment},
                stdout=log,
                stderr=log,
            )
        self.supervisors.append(process)
        return process

    def log(self) -> str:
        return (self.settings.data_dir / "supervisor.log").read_text()[-6000:]

    def alive(self) -> list[WorkerRecord]:
        with self.database.read() as connection:
            return workers.alive(connection, "distillation")

    def admit(self, text: str) -> str:
        return self.admit_many(text, 1)[0]

    def admit_many(self, text: str, count: int, *, cost_estimate_seconds: float = 1.0) -> list[str]:
        """So many memories of this text, in one transaction; their jobs' ids."""
        data = json.dumps({"kind": "text", "title": "A title", "text": text}).encode()
        ids = [new_id("mem") for _ in range(count)]
        keys = {memory_id: context_key(self.tenant_id, memory_id) for memory_id in ids}
        store = open_sealed_store(self.settings, self.database)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: store.put(key, data), keys.values()))
        offers = [
            Offer(
                NewMemory(
                    id=memory_id,
                    tenant_id=self.tenant_id,
                    collection="default",
                    title="A title",
                    metadata={},
                    kind="text",
                    context_key=keys[memory_id],
                    context_sha256=hashlib.sha256(data).hexdigest(),
                    context_bytes=len(data),
                    context_tokens=1,
                    base_digest=self.base_digest,
                    cost_estimate_seconds=cost_estimate_seconds,
                )
            )
            for memory_id in ids
        ]
        with self.database.begin() as connection:
            made = memories.admit_many(connection, self.tenant_id, offers, backlog_limit=count + 10)
        return [outcome[1].id for outcome in made if not isinstance(outcome, LatentBankError)]

    def revise(self, job_id: str, text: str) -> str:
        """A new version of the job's memory."""
        old, revision = self.memory(job_id), new_id("job")
        data = json.dumps({"kind": "text", "title": old.title, "text": text}).encode()
        fields = {name: getattr(old, name) for name in revisions.FIELDS} | {
            "context_key": revised_context_key(old.tenant_id, old.id, revision),
            "context_sha256": hashlib.sha256(data).hexdigest(),
        }
        open_sealed_store(self.settings, self.database).put(fields["context_key"], data)
        new = NewRevision(revision, old.id, old.tenant_id, cost_estimate_seconds=1.0, replaces=old.version, **fields)
        with self.database.begin() as connection:
            return revisions.revise(connection, new, backlog_limit=10)[1].id

    def ring(self, job_id: str) -> None:
        app = Celery("bell")
        app.conf.update(celery_settings(self.settings.resolved_broker_url, self.settings.data_dir))
        app.send_task(TASK_NAME, args=[job_id], queue=QUEUE)
        app.close()

    def job(self, job_id: str) -> Job:
        with self.database.read() as connection:
            return jobs.get_job(connection, self.tenant_id, job_id)

    def memory(self, job_id: str) -> Memory:
        with self.database.read() as connection:
            return memories.get_memory(connection, self.tenant_id, self.job(job_id).memory_id)

    def until(self, job_id: str, state: str) -> Job:
        self.eventually(lambda: self.job(job_id).state == state)
        assert self.job(job_id).state == state, self.log()
        return self.job(job_id)

    def until_working(self, job_id: str) -> None:
        """Until the trainer has reported from inside the run."""
        self.eventually(lambda: self.job(job_id).phase is not None)
        assert self.job(job_id).phase is not None, self.log()

    def eventually(self, condition: Callable[[], object]) -> bool:
        return eventually(condition, self.wait_seconds)

    def end(self) -> None:
        """Kills what is left of the supervisors, and sees their groups go."""
        for process in self.supervisors:
            process.kill()
            process.wait()
        if self.pids.exists():
            eventually(lambda: all(gone(pid) for pid in self.trainers()))

    def trainers(self) -> list[int]:
        """The ids of all processes that any group has had."""
        return [int(line) for line in self.pids.read_text().split()]


def eventually(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
