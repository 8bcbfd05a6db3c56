"""The checks behind `latentbank doctor`: each finding says what was looked at, what was seen, and how to mend it.

What may be missing is imported where it is checked: the doctor has to work on a half-installed machine.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import httpx

from core.base_model.description import directory_of, read_description
from core.base_model.reference import locate
from core.cli import setting_checks
from core.cli.client import gateway_url, key_files
from core.cli.findings import Finding
from core.cli.keys import API_KEY
from core.cli.stack_file import read_stack_file
from core.errors import LatentBankError, SetupError
from core.machine import writable
from core.redaction import Redaction
from core.settings import Settings

TORCH = "2.13.0"
_DISTRIBUTIONS = (
    "alembic",
    "bm25s",
    "boto3",
    "celery",
    "cryptography",
    "deepspeed",
    "fastapi",
    "gguf",
    "httpx",
    "numpy",
    "peft",
    "prometheus-client",
    "psycopg",
    "pydantic-settings",
    "safetensors",
    "sqlalchemy",
    "structlog",
    "tokenizers",
    "torch",
    "transformers",
    "uvicorn",
)
_FREE_BYTES = 3 * 1000**3
_MEMORY_BYTES = 4 * 1000**3
_CONNECT_SECONDS = 3.0
_BROKER_PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}


def examine(settings: Settings) -> list[Finding]:
    """All findings, in the order in which one would mend them."""
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _python,
        _packages,
        _torch,
        _machine,
        setting_checks.names,
        setting_checks.values,
        _data_dir,
        _base_files,
        _base_copy,
        _encoder,
        _parser,
        _database,
        setting_checks.tables,
        setting_checks.clock,
        _broker,
        _objects,
        _stack,
        _gateway,
    )
    hide = Redaction(settings)
    findings = [check(settings) for check in checks]
    return [replace(one, detail=hide(one.detail), mend=hide(one.mend)) for one in findings]


def _python(_: Settings) -> Finding:
    version = platform.python_version()
    if version.startswith("3.11."):
        return Finding("Python", "ok", version)
    return Finding("Python", "warning", version, "LatentBank is tested with Python 3.11; newer ones should do.")


def _packages(_: Settings) -> Finding:
    missing = [name for name in _DISTRIBUTIONS if _version(name) is None]
    if missing:
        return Finding("packages", "missing", f"not installed: {', '.join(missing)}", "Run: make install")
    return Finding("packages", "ok", f"all {len(_DISTRIBUTIONS)} installed")


def _torch(_: Settings) -> Finding:
    version = _version("torch")
    if version is None:
        return Finding("torch", "missing", "not installed", "Run: make install")
    if version.partition("+")[0] != TORCH:
        return Finding("torch", "warning", version, f"LatentBank is tested with {TORCH}: pip install torch=={TORCH}")
    return Finding("torch", "ok", version)


def _machine(_: Settings) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    seen = f"{cores} cores, {memory / 1000**3:.0f} GB of memory"
    if memory < _MEMORY_BYTES:
        return Finding("machine", "warning", seen, "Distilling and serving at once wants 4 GB; expect swapping.")
    return Finding("machine", "ok", seen)


def _data_dir(settings: Settings) -> Finding:
    directory = settings.data_dir
    if (problem := writable(directory)) is not None:
        mend = "Make it writable, or set LATENTBANK_DATA_DIR to a directory that is."
        return Finding("data directory", "missing", f"{directory}: {problem}", mend)
    free = shutil.disk_usage(directory).free
    seen = f"{directory}, {free / 1000**3:.0f} GB free"
    if free < _FREE_BYTES:
        return Finding("data directory", "warning", seen, "The base model's copy and the caches want 3 GB; make room.")
    return Finding("data directory", "ok", seen)


def _base_files(settings: Settings) -> Finding:
    return _located("base model", settings.base_model)


def _encoder(settings: Settings) -> Finding:
    return _located("encoder", settings.encoder)


def _parser(settings: Settings) -> Finding:
    if not settings.recipe.parser:
        return Finding("parser", "ok", "none: the base asks all questions")
    return _located("parser", settings.recipe.parser)


def _located(subject: str, reference: str) -> Finding:
    try:
        files = locate(reference)
    except SetupError as problem:
        return Finding(subject, "missing", reference, problem.message)
    if isinstance(files.directory, str):
        return Finding(subject, "ok", f"{reference} (a hub id, fetched when first used)")
    return Finding(subject, "ok", reference)


def _base_copy(settings: Settings) -> Finding:
    try:
        described = read_description(directory_of(settings.base_model, settings.base_dir))
    except SetupError:
        mend = "'latentbank up' makes it on its first start; or run: latentbank doctor --prepare"
        return Finding("base model's copy", "warning", f"not yet in {settings.base_dir}", mend)
    return Finding("base model's copy", "ok", f"{described.name}, {described.digest[:19]}…")


def _database(settings: Settings) -> Finding:
    url = settings.resolved_database_url
    subject = "database"
    try:
        from core.truth.database import Database

        database = Database(url)
        with database.read() as connection:
            database.now(connection)
        database.dispose()
    except ImportError as missing:
        return Finding(subject, "missing", str(missing), "Run: make install")
    except Exception as problem:  # noqa: BLE001 - whatever the driver says is the finding
        mend = "Start the server, or correct LATENTBANK_DATABASE_URL; empty, it is an SQLite file."
        return Finding(subject, "missing", f"{url}: {_first_line(problem)}", mend)
    return Finding(subject, "ok", url)


def _broker(settings: Settings) -> Finding:
    url = settings.resolved_broker_url
    try:
        parts = urlsplit(url)
        known = (parts.hostname, parts.port)
    except ValueError as problem:
        mend = "Correct LATENTBANK_BROKER_URL; a password's special characters are written as %XX there."
        return Finding("broker", "missing", f"no address: {problem}", mend)
    if parts.scheme == "filesystem":
        return Finding("broker", "ok", f"Celery on its filesystem transport, in {settings.data_dir}")
    if parts.scheme not in _BROKER_PORTS:
        mend = "Set LATENTBANK_BROKER_URL to redis://…, amqp://…, or to nothing for the filesystem transport."
        return Finding("broker", "missing", f"unknown kind: {parts.scheme}://", mend)
    try:
        address = (known[0] or "127.0.0.1", known[1] or _BROKER_PORTS[parts.scheme])
        socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
    except OSError as problem:
        mend = "Start the server, or correct LATENTBANK_BROKER_URL; empty, Celery uses files."
        return Finding("broker", "missing", f"{url}: {_first_line(problem)}", mend)
    return Finding("broker", "ok", url)


def _objects(settings: Settings) -> Finding:
    url = settings.resolved_object_url
    mend = "Check the LATENTBANK_STORAGE__ settings; with no URL the objects are in the data directory."
    try:
        from core.storage.opening import open_store

        open_store(settings).check()
    except ImportError as missing:
        return Finding("object store", "missing", str(missing), "Run: make install")
    except LatentBankError as problem:
        return Finding("object store", "missing", f"{url}: {problem.message}", mend)
    return Finding("object store", "ok", url)


def _stack(settings: Settings) -> Finding:
    running = read_stack_file(settings.data_dir)
    if running is not None:
        return Finding("stack", "ok", f"running as process {running.pid}, {running.gateway_url}")
    taken = [str(port) for port in _ports(settings) if _is_taken(port)]
    if taken:
        return Finding("stack", "ok", f"not running; ports {', '.join(taken)} are taken, 'latentbank up' takes others")
    return Finding("stack", "ok", "not running; its ports are free")


def _gateway(settings: Settings) -> Finding:
    url = gateway_url(settings)
    try:
        ready = httpx.get(f"{url}/ready", timeout=_CONNECT_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return Finding("gateway", "warning", f"none answers at {url}", "Start one: latentbank up")
    if ready.status_code != httpx.codes.OK:
        return Finding("gateway", "warning", f"{url} is up but not ready: {ready.text[:200]}", "See its log.")
    if settings.api_key is None and key_files(settings).read(API_KEY) is None:
        mend = "Set LATENTBANK_API_KEY; the admin makes one with: latentbank tenants create NAME"
        return Finding("gateway", "warning", f"{url} is ready, but there is no key for it", mend)
    return Finding("gateway", "ok", f"{url} is ready")


def _ports(settings: Settings) -> Iterator[int]:
    yield settings.gateway.port
    yield settings.serving.port
    yield settings.orchestrator.metrics_port
    yield settings.distillation.metrics_port


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(problem: BaseException) -> str:
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)
