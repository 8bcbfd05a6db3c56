"""Every process is replaced, one after the other, while questions and contexts keep coming."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import sqlalchemy

from core.adapters.validation import layers_of_base
from core.base_model.prepare import prepare
from core.retrieval.encoder import Encoder
from core.settings import Settings
from core.storage.s3 import S3Store
from core.truth import jobs, memories, tenants, workers
from core.truth.api_keys import issue_key
from core.truth.database import Database
from core.truth.records import Job
from tests.acceptance.fleet import Fleet, Member, until
from tests.acceptance.load import Balancer, Load
from tests.fixtures.published import TARGETS, Publisher
from tests.fixtures.s3 import S3Server
from tests.fixtures.tiny_llama import make_tiny_llama

QUESTION = "What does the heron eat?"


@dataclass(frozen=True, slots=True)
class Rolling:
    """The fleet, what keeps it busy, and the truth that says what became of it."""

    fleet: Fleet
    load: Load
    database: Database
    signals: Path
    asking: str
    sending: str
    key: str

    def job(self, job_id: str) -> Job:
        with self.database.read() as connection:
            return jobs.get_job(connection, self.sending, job_id)

    def all_jobs(self) -> list[Job]:
        return [self.job(job_id) for _, job_id in self.load.admitted]

    def holder(self, job_id: str) -> Member:
        """The worker that has claimed the job, by the process id that it announced."""
        worker_id = self.job(job_id).worker_id
        with self.database.read() as connection:
            pids = {record.id: record.info["pid"] for record in workers.alive(connection, "distillation")}
        return next(member for member in self.fleet.of("distillation") if _pid(member) == pids.get(worker_id or ""))


@pytest.fixture
def rolling(
    tmp_path: Path, postgres_url: str, redis_url: str, s3_server: S3Server, s3_bucket: str
) -> Iterator[Rolling]:
    base = prepare(str(make_tiny_llama(tmp_path / "tiny")), tmp_path / "bases")
    (base.path / "layers.json").write_text(json.dumps(layers_of_base(base.path, TARGETS)))
    storage = s3_server.settings(s3_bucket, f"rolling-{secrets.token_hex(4)}")
    assert storage.access_key is not None
    assert storage.secret_key is not None
    store = S3Store(s3_bucket, storage.url.removeprefix(f"s3://{s3_bucket}/"), storage)
    database = Database(_fresh_database(postgres_url))
    database.migrate()
    publisher = Publisher(database, store, base, Encoder(Settings.model_fields["encoder"].default))
    asking = publisher.tenant("asking")
    publisher.publish(asking, "Animals and what they eat", "The blue heron eats fish.", seed=1)
    with database.begin() as connection:
        sending = tenants.create_tenant(connection, "sending").id
        asking_key, sending_key = (issue_key(connection, tenant_id)[0] for tenant_id in (asking, sending))
    environment = {
        "LATENTBANK_DATA_DIR": str(tmp_path),
        "LATENTBANK_DATABASE_URL": database.url.render_as_string(hide_password=False),
        "LATENTBANK_BROKER_URL": redis_url.removesuffix("/0") + "/7",
        "LATENTBANK_BASE_MODEL": base.reference,
        "LATENTBANK_STORAGE__URL": storage.url,
        "LATENTBANK_STORAGE__ENDPOINT": storage.endpoint or "",
        "LATENTBANK_STORAGE__ACCESS_KEY": storage.access_key.get_secret_value(),
        "LATENTBANK_STORAGE__SECRET_KEY": storage.secret_key.get_secret_value(),
        "LATENTBANK_INTERNAL_TOKEN": secrets.token_hex(16),
        "LATENTBANK_MASTER_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "LATENTBANK_WORKER_TTL_SECONDS": "15",
        "LATENTBANK_JOBS__DISPATCH_INTERVAL_SECONDS": "0.3",
        "LATENTBANK_DISTILLATION__PACK": "1",
        "LATENTBANK_DISTILLATION__CANCEL_GRACE_SECONDS": "0.5",
        "LATENTBANK_GATEWAY__DRAIN_SECONDS": "5",
        "LATENTBANK_SERVING__THREADS": "1",
        "LATENTBANK_LOG_JSON": "true",
        "OMP_NUM_THREADS": "1",
    }
    fleet = Fleet(tmp_path, environment, {"distillation": (str(tmp_path / "pids"),)})
    try:
        for kind in ("orchestrator", "distillation", "inference", "gateway"):
            for _ in range(2):
                fleet.add(kind)
        for member in fleet.members:
            member.await_ready()
        with Balancer([member.url for member in fleet.of("gateway")]) as balancer:
            load = Load(balancer)
            body: dict[str, object] = {
                "model": base.name,
                "messages": [{"role": "user", "content": QUESTION}],
                "temperature": 0,
                "memory": {"mode": "force"},
            }
            load.ask(asking_key, {**body, "max_tokens": 4})
            load.ask_streaming(asking_key, {**body, "max_tokens": 120})
            load.submit(sending_key)
            load.look(asking_key)
            try:
                yield Rolling(fleet, load, database, tmp_path, asking, sending, sending_key)
            finally:
                load.end()
    finally:
        fleet.end()
        database.dispose()


def test_a_rolling_restart_of_every_process_fails_no_question_and_loses_no_job(rolling: Rolling) -> None:
    load, fleet = rolling.load, rolling.fleet
    until(lambda: load.looked and load.streamed and load.answered and load.admitted, 60, "the first answers")

    held = [_send(rolling, f"wait door-{number}") for number in range(2)]
    until(lambda: all(rolling.job(job_id).state == "running" for job_id in held), 60, "both workers being busy")
    for job_id in held:
        holder = rolling.holder(job_id)
        _replace(rolling, holder)
        until(lambda job_id=job_id: rolling.job(job_id).epoch == 2, 60, "another claim of what was given back")
    for number in range(2):
        (rolling.signals / f"door-{number}").touch()

    for kind in ("orchestrator", "inference", "gateway"):
        for member in fleet.of(kind):
            until(lambda: load.under_way, 60, "a stream under way")
            _replace(rolling, member)
    asked, streamed, sent = load.answered, load.streamed, len(load.admitted)
    until(lambda: load.answered > asked and load.streamed > streamed, 60, "answers of the new processes")
    load.end()

    assert load.wrong == []
    assert sent > 5
    assert load.looked > 100
    until(lambda: all(job.state == "succeeded" for job in rolling.all_jobs()), 120, "the end of all jobs")
    assert {job.attempts for job in [*rolling.all_jobs(), *map(rolling.job, held)]} == {1}
    assert [rolling.job(job_id).state for job_id in held] == ["succeeded"] * 2
    with rolling.database.read() as connection:
        for memory_id, _ in load.admitted:
            assert memories.get_memory(connection, rolling.sending, memory_id).status == "ready"


def _replace(rolling: Rolling, member: Member) -> None:
    """As an operator does: stop one, start its successor, go on when it is ready."""
    wrong = len(rolling.load.wrong)
    code = member.stop()
    member.start()
    member.await_ready()
    assert code == 0, member.log.read_text()[-4000:]
    assert rolling.load.wrong[wrong:] == [], member.log.read_text()[-4000:]


def _send(rolling: Rolling, text: str) -> str:
    url, headers = rolling.load.balancer.pick(), {"Authorization": f"Bearer {rolling.key}"}
    body = {"title": "Held", "text": text}
    answer = httpx.post(f"{url}/v1/memories", json=body, headers=headers, timeout=60, trust_env=False)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def _pid(member: Member) -> int | None:
    return member.process.pid if member.process is not None else None


def _fresh_database(url: str) -> str:
    name = f"rolling_{secrets.token_hex(4)}"
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return str(sqlalchemy.make_url(url).set(database=name).render_as_string(hide_password=False))
