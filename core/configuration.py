"""Reads a process's settings, and refuses those that can't work, each with a sentence that says how to mend it.

What needs the machine or a server to be seen is in `preflight.py`; here are only names and values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import SettingsError

from core.errors import Misconfigured
from core.settings import Settings

Process = Literal["gateway", "orchestrator", "distillation", "inference"]
PROCESSES: tuple[Process, ...] = ("gateway", "orchestrator", "distillation", "inference")

LEAST_TOKEN_BYTES = 16
"""Of an internal token, where others than this machine reach the worker."""

_PREFIX = "LATENTBANK_"
_ENV_FILE = ".env"
_NOT_SETTINGS = re.compile(r"LATENTBANK_(TEST_\w+|STACK_MARK)")
"""Read by tests and by the CLI's own children."""
_DATABASES = re.compile(r"(sqlite|postgres|postgresql|postgresql\+psycopg)://")
_BROKERS = re.compile(r"(filesystem|redis|rediss|amqp|amqps)://")
_STORES = re.compile(r"(file:///|s3://[^/])")
_HTTP = re.compile(r"https?://[^/]")


def read_settings(environment: Mapping[str, str] | None = None, env_file: Path = Path(_ENV_FILE)) -> Settings:
    """The settings of the environment and of the file; raises `Misconfigured` for a name or a value that can't be."""
    names = [
        *(os.environ if environment is None else environment),
        *(dotenv_values(env_file) if env_file.is_file() else ()),
    ]
    if wrong := unknown(names):
        raise Misconfigured(" ".join(wrong))
    try:
        return Settings()
    except ValidationError as problem:
        raise Misconfigured(" ".join(sentences(problem))) from None
    except SettingsError as problem:
        raise Misconfigured(f"A setting with several values has to be written as JSON: {problem}.") from None


def known_names(model: type[BaseModel] = Settings, prefix: str = _PREFIX) -> Iterator[str]:
    """Every variable that is a setting, groups included: those may be given as one JSON object."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name.upper()}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_names(field.annotation, f"{prefix}{name.upper()}__")


def unknown(names: Iterable[str]) -> list[str]:
    """A sentence for each name of ours that is no setting: whoever wrote it believes that it is heeded."""
    known = set(known_names())
    found = []
    for name in sorted(set(names)):
        upper = name.upper()
        if upper in known or not upper.startswith(_PREFIX) or _NOT_SETTINGS.fullmatch(upper):
            continue
        bare = upper.removeprefix(_PREFIX)
        near = get_close_matches(bare, (each.removeprefix(_PREFIX) for each in known), n=1, cutoff=0.6)
        hint = (
            f"did you mean {_PREFIX}{near[0]}?" if near else "remove it; core/settings.py lists those that there are."
        )
        found.append(f"{name} is no setting; {hint}")
    return found


def sentences(problem: ValidationError) -> list[str]:
    """One a field, without its value, which may be a secret."""
    return [
        f"{_PREFIX}{'__'.join(str(p).upper() for p in each['loc'])}: {_lower(each['msg'])}."
        for each in problem.errors()
    ]


def contradictions(settings: Settings, process: Process) -> list[str]:
    """A sentence for each of the settings that can't work as they are, alone or together."""
    return [*_of_all(settings), *_OF[process](settings)]


def doubts(settings: Settings) -> list[str]:
    """A sentence for each that can work, and is hardly meant."""
    jobs, found = settings.jobs, []
    if jobs.garbage_margin_seconds < 60:
        found.append(
            "LATENTBANK_JOBS__GARBAGE_MARGIN_SECONDS is below a minute: what is just being sent may be removed."
        )
    if jobs.doorbell_timeout_seconds < jobs.dispatch_interval_seconds:
        found.append(
            "LATENTBANK_JOBS__DOORBELL_TIMEOUT_SECONDS is below LATENTBANK_JOBS__DISPATCH_INTERVAL_SECONDS: every "
            "doorbell is rung again."
        )
    if 0 < settings.serving.drain_seconds <= settings.gateway.worker_list_seconds:
        found.append(
            "LATENTBANK_SERVING__DRAIN_SECONDS is not above LATENTBANK_GATEWAY__WORKER_LIST_SECONDS: gateways still "
            "send questions to a worker that is gone."
        )
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _of_all(settings: Settings) -> Iterator[str]:
    jobs, url = settings.jobs, settings.resolved_object_url
    if not _DATABASES.match(settings.resolved_database_url):
        yield "LATENTBANK_DATABASE_URL has to begin with postgresql:// or sqlite:///, or be empty for an SQLite file."
    if not _BROKERS.match(settings.resolved_broker_url):
        yield "LATENTBANK_BROKER_URL has to begin with redis:// or amqp://, or be empty for files."
    if not _STORES.match(url):
        yield "LATENTBANK_STORAGE__URL has to be s3://bucket/prefix or file:///directory; empty: the data directory."
    endpoint = settings.storage.endpoint
    if url.startswith("s3://") and endpoint and not _HTTP.match(endpoint):
        yield "LATENTBANK_STORAGE__ENDPOINT has to begin with http:// or https://."
    if url.startswith("s3://") and (settings.storage.access_key is None) != (settings.storage.secret_key is None):
        yield "LATENTBANK_STORAGE__ACCESS_KEY and LATENTBANK_STORAGE__SECRET_KEY go together; set both or none."
    if jobs.heartbeat_seconds * 2 > jobs.lease_seconds:
        yield (
            f"LATENTBANK_JOBS__HEARTBEAT_SECONDS ({jobs.heartbeat_seconds:g}) has to be at most half of "
            f"LATENTBANK_JOBS__LEASE_SECONDS ({jobs.lease_seconds:g}), a third is usual: one late heartbeat must not "
            "lose a job."
        )
    if settings.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        yield "LATENTBANK_LOG_LEVEL has to be DEBUG, INFO, WARNING, ERROR or CRITICAL."


def _of_gateway(settings: Settings) -> Iterator[str]:
    host = settings.gateway.host
    if not is_loopback(host):
        if not _is_set(settings.admin_key):
            yield (
                f"LATENTBANK_GATEWAY__HOST is {host}, which others reach, and LATENTBANK_ADMIN_KEY is not set: nobody "
                "could make a tenant; set it to a long random text."
            )
        if not _is_set(settings.internal_token):
            yield (
                f"LATENTBANK_GATEWAY__HOST is {host}, which others reach, and LATENTBANK_INTERNAL_TOKEN is not set: "
                "inference workers would refuse this gateway; set it to the same long random text in both."
            )


def _of_orchestrator(_: Settings) -> Iterator[str]:
    return iter(())


def _of_distillation(settings: Settings) -> Iterator[str]:
    config = settings.distillation.deepspeed_config
    if config is not None and not config.is_file():
        yield f"LATENTBANK_DISTILLATION__DEEPSPEED_CONFIG names no file: {config}."


def _of_inference(settings: Settings) -> Iterator[str]:
    serving = settings.serving
    if not _is_set(settings.internal_token):
        yield (
            "LATENTBANK_INTERNAL_TOKEN is not set; without it anyone who reaches this worker could speak for any "
            "tenant. Set it to the same long random text as the gateway's."
        )
    if not is_loopback(serving.host):
        yield from _guessable(settings)
    yield from _of_tls(settings)
    if serving.admin_port is not None and not _is_set(settings.admin_key):
        yield "LATENTBANK_SERVING__ADMIN_PORT is set, but no LATENTBANK_ADMIN_KEY that would guard it."
    if serving.advertise_url is not None and not _HTTP.match(serving.advertise_url):
        yield "LATENTBANK_SERVING__ADVERTISE_URL has to begin with http:// or https://."
    if serving.advertise_url is None and serving.host in ("0.0.0.0", "::", ""):  # nosec B104 - refused, not bound
        yield (
            f"LATENTBANK_SERVING__HOST is {serving.host or 'empty'}, which is no address that a gateway could ask; set "
            "LATENTBANK_SERVING__ADVERTISE_URL to this worker's own."
        )


def _guessable(settings: Settings) -> Iterator[str]:
    for name in ("internal_token", "internal_token_also"):
        secret: SecretStr | None = getattr(settings, name)
        if secret is not None and 0 < len(secret.get_secret_value().encode()) < LEAST_TOKEN_BYTES:
            yield (
                f"LATENTBANK_{name.upper()} is shorter than {LEAST_TOKEN_BYTES} characters, and the worker would "
                f"listen on {settings.serving.host}, where others can try; make one with: openssl rand -hex 32"
            )


def _of_tls(settings: Settings) -> Iterator[str]:
    serving = settings.serving
    if serving.tls_key is not None and serving.tls_cert is None:
        yield "LATENTBANK_SERVING__TLS_KEY is set without LATENTBANK_SERVING__TLS_CERT; set both or none."
    for name in ("tls_cert", "tls_key"):
        path: Path | None = getattr(serving, name)
        if path is not None and not path.is_file():
            yield f"LATENTBANK_SERVING__{name.upper()} names no file: {path}."


_OF = {
    "gateway": _of_gateway,
    "orchestrator": _of_orchestrator,
    "distillation": _of_distillation,
    "inference": _of_inference,
}


def _is_set(secret: SecretStr | None) -> bool:
    return secret is not None and bool(secret.get_secret_value())


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
