"""The queue at scale: contexts over HTTP, dispatch, claims and publications, with a trainer that only obeys.

    python -m tests.benchmarks.jobs [--jobs 10000] [--tenants 50] [--rounds 4] [--small] --json OUT

Real processes: one gateway, one orchestrator, two distillation workers, PostgreSQL with its own defaults (durable),
Redis as the broker, an S3 server or the local store for the objects. In each round a part of the jobs is submitted one
by one and the rest in bulk while nobody works on them; then bare Celery works a full queue off, and the orchestrator is
started, so that the workers work the backlog off. The two change their order from round to round.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import shlex
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select, text
from tokenizers import Tokenizer, models, pre_tokenizers

from core.base_model.description import BaseDescription
from core.settings import RecipeSettings
from core.storage.s3 import S3Store
from core.truth import workers
from core.truth.database import Database
from core.truth.tables import jobs, memories
from tests.benchmarks.jobs_backlog import backlog_figures
from tests.benchmarks.jobs_bare import bare_per_second
from tests.benchmarks.jobs_clients import Customer, new_customers, submit_in_bulk, submit_one_by_one
from tests.benchmarks.jobs_processes import Process
from tests.benchmarks.telling import tell, write_report
from tests.fixtures.fake_trainer import export, make_fake_base
from tests.fixtures.ports import free_port
from tests.fixtures.postgres import postgres
from tests.fixtures.redis import running_redis
from tests.fixtures.s3 import gateway as s3_server

WORKERS = 2
ONE_BY_ONE = 0.2
BASE = "bench"
ADMIN_KEY = "admin-key-of-the-benchmark"
BACKLOGS = (1_000, 100_000)


@dataclass(frozen=True, slots=True)
class Stack:
    """Where everything is; `environment` is what every process of ours gets."""

    directory: Path
    environment: dict[str, str]
    url: str
    database: Database
    broker_url: str
    log: Any

    def process(self, name: str, *words: str, **environment: str) -> Process:
        command = [sys.executable, "-m", *words]
        return Process(name, command, self.environment | environment, self.log)


def main() -> None:
    options = _options()
    tell(f"load average {os.getloadavg()[0]:.2f}")
    with ExitStack() as servers:
        directory = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="lb-bench-jobs-")))
        postgres_url = servers.enter_context(postgres(durable=True))
        report: dict[str, Any] = {
            "command": shlex.join(["python", "-m", "tests.benchmarks.jobs", *sys.argv[1:]]),
            "load_average": os.getloadavg()[0],
            "jobs": options.jobs,
            "tenants": options.tenants,
            "pack": options.pack,
            "settings": options.set,
        }
        sizes = (100, 1_000) if options.small else BACKLOGS
        if "backlog" in options.parts:
            passes = 3 if options.small else 40
            figures = backlog_figures(
                postgres_url, sizes, tenant_count=options.tenants, passes=passes, pack=options.pack
            )
            report |= {"dispatch_ms_at_1e5_backlog": figures["dispatch_ms"]["median"][str(sizes[-1])], **figures}
            tell(json.dumps(figures))
        for store in options.stores:
            if "stack" in options.parts:
                with _stack(
                    directory / store, postgres_url, servers.enter_context(running_redis()).url, store, options
                ) as stack:
                    report[f"with_{store}"] = _measure(stack, options)
    if f"with_{options.stores[0]}" in report:
        report |= report[f"with_{options.stores[0]}"]
    write_report(options.json, report)
    tell(f"{options.json} is written.")


def _measure(stack: Stack, options: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as running:
        gateway = running.enter_context(stack.process("gateway", "gateway"))
        _wait_for(lambda: _ready(stack.url), "the gateway")
        customers = new_customers(stack.url, ADMIN_KEY, options.tenants)
        supervisors = [
            running.enter_context(
                stack.process(f"worker {number}", "tests.benchmarks.jobs_worker", str(stack.directory / "template"))
            )
            for number in range(WORKERS)
        ]
        _wait_for(lambda: len(_alive(stack.database)) == WORKERS, "the workers")
        share = max(1, options.jobs // options.rounds // options.tenants)
        rounds = []
        rss: dict[str, int] = {}
        for number in range(options.rounds):
            submitted = _submit(stack.url, customers, share, f"round {number}", options)
            sides = [("bare", lambda: _bare(stack, share * options.tenants)), ("ours", lambda: _drain(stack, rss))]
            measured = {name: side() for name, side in (sides if number % 2 == 0 else sides[::-1])}
            rounds.append(submitted | {f"{name}_per_s": value for name, value in measured.items()})
            tell(f"round {number}: {json.dumps(rounds[-1])}")
        urls = [worker.url for worker in _alive(stack.database)]
        claims = {"claim_ms_p50": _claim_ms(urls, 0.5), "claim_ms_p99": _claim_ms(urls, 0.99)}
        for process in (gateway, *supervisors):
            rss |= process.rss_bytes()
    return {
        "submitted_per_s": _spread([one["submitted_per_s"] for one in rounds]),
        "bulk_memories_per_s": _spread([one["bulk_per_s"] for one in rounds]),
        "completed_per_s": _spread([one["ours_per_s"] for one in rounds]),
        "bare_celery_per_s": _spread([one["bare_per_s"] for one in rounds]),
        "over_bare_celery": _spread([one["ours_per_s"] / one["bare_per_s"] for one in rounds]),
        **claims,
        "rss_bytes": rss,
        "rounds": rounds,
    }


def _submit(
    url: str, customers: Sequence[Customer], share: int, label: str, options: argparse.Namespace
) -> dict[str, float]:
    """`share` memories of every customer."""
    single = max(1, round(share * ONE_BY_ONE))
    one_by_one = submit_one_by_one(url, customers, single, f"{label} single")
    bulk = submit_in_bulk(url, customers, share - single, f"{label} bulk") if share > single else 0.0
    return {"submitted_per_s": one_by_one, "bulk_per_s": bulk}


def _bare(stack: Stack, tasks: int) -> float:
    return bare_per_second(stack.broker_url, tasks, WORKERS)


def _drain(stack: Stack, rss: dict[str, int]) -> float:
    """Jobs a second from the first claim to the last publication, by the database's clock."""
    with stack.database.read() as connection:
        before = _ended(connection)
        waiting = connection.execute(
            select(func.count()).select_from(jobs).where(jobs.c.state == "queued")
        ).scalar_one()
    with stack.process("orchestrator", "orchestrator") as orchestrator:
        _wait_for(lambda: _queue_is_empty(stack.database), "the end of the jobs", seconds=600)
        rss |= orchestrator.rss_bytes()
    with stack.database.read() as connection:
        failed = connection.execute(select(func.count()).select_from(jobs).where(jobs.c.state != "succeeded"))
        assert failed.scalar_one() == 0
        ready = connection.execute(select(func.count()).select_from(memories).where(memories.c.status == "ready"))
        assert ready.scalar_one() == before + waiting
        newest = select(jobs.c.started_at, jobs.c.finished_at).order_by(jobs.c.finished_at.desc()).limit(waiting)
        these = newest.subquery().c
        began, ended = connection.execute(select(func.min(these.started_at), func.max(these.finished_at))).one()
    return float(waiting / (ended - began).total_seconds())


def _ended(connection: Any) -> int:
    return int(
        connection.execute(select(func.count()).select_from(jobs).where(jobs.c.state == "succeeded")).scalar_one()
    )


def _queue_is_empty(database: Database) -> bool:
    with database.read() as connection:
        return not connection.execute(select(jobs.c.id).where(jobs.c.state.in_(("queued", "running"))).limit(1)).all()


def _alive(database: Database) -> list[Any]:
    with database.read() as connection:
        return workers.alive(connection, "distillation")


def _claim_ms(urls: Sequence[str], share: float) -> float:
    """Milliseconds that a share of the claiming transactions of all workers stay below, by their histograms."""
    below: Counter[float] = Counter()
    for url in urls:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        for family in families:
            for sample in family.samples:
                if sample.name == "latentbank_job_claim_seconds_bucket":
                    below[float(sample.labels["le"])] += int(sample.value)
    edge, count_before = 0.0, 0
    wanted = share * below[float("inf")]
    for upper in sorted(below):
        if below[upper] >= wanted:
            inside = (wanted - count_before) / max(1, below[upper] - count_before)
            return round(1000 * (edge + inside * ((upper if upper < float("inf") else edge) - edge)), 2)
        edge, count_before = upper, below[upper]
    return 0.0


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=2):
            return True
    except urllib.request.HTTPError as answer:
        # Without inference workers the gateway is not ready to answer questions; it takes contexts once it has a base.
        return bool(json.loads(answer.read())["checks"].get("base_model", {}).get("ok"))
    except OSError:
        return False


@contextmanager
def _stack(
    directory: Path, postgres_url: str, broker_url: str, store: str, options: argparse.Namespace
) -> Iterator[Stack]:
    directory.mkdir()
    data = directory / "data"
    base = make_fake_base(BASE, data / "bases")
    _write_tokenizer(Path(base.path))
    _make_template(directory / "template", base)
    server = Database(postgres_url)
    with server._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE stack_{store}"))
    database_url = str(server.url.set(database=f"stack_{store}").render_as_string(hide_password=False))
    server.dispose()
    port = free_port()
    environment = {
        "LATENTBANK_DATA_DIR": str(data),
        "LATENTBANK_DATABASE_URL": database_url,
        "LATENTBANK_BROKER_URL": broker_url,
        "LATENTBANK_BASE_MODEL": BASE,
        "LATENTBANK_ADMIN_KEY": ADMIN_KEY,
        "LATENTBANK_MASTER_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "LATENTBANK_GATEWAY__PORT": str(port),
        "LATENTBANK_DISTILLATION__METRICS_PORT": "0",
        "LATENTBANK_ORCHESTRATOR__METRICS_PORT": "0",
        "LATENTBANK_DISTILLATION__PACK": str(options.pack),
        "LATENTBANK_DISTILLATION__PACK_CONTEXT_BYTES": str(options.pack * 4096),
        **dict(pair.split("=", 1) for pair in options.set),
    }
    with ExitStack() as servers:
        if store == "s3":
            (directory / "s3").mkdir()
            s3 = servers.enter_context(s3_server(directory / "s3"))
            bucket = f"latentbank-{secrets.token_hex(6)}"
            S3Store(bucket, "", s3.settings(bucket)).create_bucket()
            environment |= {
                "LATENTBANK_STORAGE__URL": f"s3://{bucket}/objects",
                "LATENTBANK_STORAGE__ENDPOINT": s3.endpoint,
                "LATENTBANK_STORAGE__ACCESS_KEY": s3.access_key,
                "LATENTBANK_STORAGE__SECRET_KEY": s3.secret_key,
            }
        log = servers.enter_context((options.logs / f"jobs-{store}.log").open("wb"))
        database = Database(database_url)
        database.migrate()
        yield Stack(directory, environment, f"http://127.0.0.1:{port}", database, broker_url, log)
        database.dispose()


def _write_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))


def _make_template(directory: Path, base: BaseDescription) -> None:
    recipe = RecipeSettings().model_dump(mode="json")
    export(directory, "", {"recipe": recipe, "encoder": "fake"}, Path(base.path), flaw="", seed=0)


def _wait_for(happened: Any, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.2)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.jobs")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--tenants", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pack", type=int, default=32, help="most jobs of one run of a worker's group")
    parser.add_argument("--stores", type=lambda names: names.split(","), default=["local", "s3"])
    parser.add_argument("--parts", type=lambda names: names.split(","), default=["backlog", "stack"])
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE for the environment of every process")
    parser.add_argument("--small", action="store_true", help="a trial of the command")
    parser.add_argument("--logs", type=Path, default=Path("/tmp"))
    parser.add_argument("--json", type=Path, default=Path("build/bench/jobs.json"))
    options = parser.parse_args()
    if options.small:
        options.jobs, options.tenants, options.rounds, options.pack = 40, 4, 1, 8
    return options


if __name__ == "__main__":
    main()
