"""The embedded stack: gateway, orchestrator, distillation and inference worker as children of this process."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import httpx
from pydantic import SecretStr

from core.cli.children import Children, free_port
from core.cli.keys import ADMIN_KEY, INTERNAL_TOKEN, KeyFiles
from core.cli.stack_file import RunningStack, owning, write_stack_file
from core.errors import Unavailable
from core.settings import Settings

_READY_SECONDS = 300.0
_POLL_SECONDS = 0.25
# Where servers listen on every address, and none can be asked.
_EVERYWHERE = ("0.0.0.0", "::", "")  # nosec B104


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the stack: `python -m module`, ready when `ready_url` answers 200."""

    name: str
    module: str
    ready_url: str
    metrics_url: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be started, and with which environment."""

    data_dir: Path
    gateway_url: str
    admin_key: str
    parts: tuple[Part, ...]
    environment: Mapping[str, str]


Progress = Callable[[str], None]
"""Told a line when something has come about."""


def plan_stack(settings: Settings, data_dir: Path, overrides: Mapping[str, str] | None = None) -> Plan:
    """Chooses ports (the settings' where free, else others), and makes or finds the keys in `<data_dir>/secrets`.

    `overrides` are environment variables that win over the caller's.
    """
    taken: set[int] = set()
    gateway = _address(settings.gateway.host, settings.gateway.port, taken)
    inference = _address(settings.serving.host, settings.serving.port, taken)
    orchestrator = _address(settings.orchestrator.host, settings.orchestrator.metrics_port, taken)
    distillation = _address(settings.distillation.host, settings.distillation.metrics_port, taken)
    keys = KeyFiles(data_dir / "secrets")
    admin_key = _given(settings.admin_key) or keys.read_or_make(ADMIN_KEY)
    environment = {
        **os.environ,
        "LATENTBANK_DATA_DIR": str(data_dir),
        "LATENTBANK_ADMIN_KEY": admin_key,
        "LATENTBANK_INTERNAL_TOKEN": _given(settings.internal_token) or keys.read_or_make(INTERNAL_TOKEN),
        "LATENTBANK_GATEWAY__PORT": str(gateway.port),
        "LATENTBANK_SERVING__PORT": str(inference.port),
        "LATENTBANK_ORCHESTRATOR__METRICS_PORT": str(orchestrator.port),
        "LATENTBANK_DISTILLATION__METRICS_PORT": str(distillation.port),
        # One gateway of this machine: it learns of a worker that ends by its closed port, and nobody balances.
        "LATENTBANK_SERVING__DRAIN_SECONDS": "0",
        # Whatever directory we are in, its modules are not ours: it may well have a folder called `core`.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        **(overrides or {}),
    }
    parts = (
        Part("orchestrator", "orchestrator", f"{orchestrator.url}/metrics", f"{orchestrator.url}/metrics"),
        Part("inference worker", "workers.inference", f"{inference.url}/ready", f"{inference.url}/metrics"),
        Part(
            "distillation worker", "workers.distillation", f"{distillation.url}/metrics", f"{distillation.url}/metrics"
        ),
        Part("gateway", "gateway", f"{gateway.url}/ready", f"{gateway.url}/metrics"),
    )
    return Plan(data_dir, gateway.url, admin_key, parts, environment)


def embedded(data_dir: Path) -> dict[str, str]:
    """Overrides that make it the embedded default on `data_dir`, whatever servers the caller's settings name."""
    return {
        "LATENTBANK_DATABASE_URL": "",
        "LATENTBANK_BROKER_URL": "",
        "LATENTBANK_STORAGE__URL": "",
        "LATENTBANK_SERVING__NODE_CACHE_DIR": str(data_dir / "node-cache"),
    }


@contextmanager
def running_stack(plan: Plan, progress: Progress, *, ready_seconds: float = _READY_SECONDS) -> Iterator[Children]:
    """Starts the stack, waits until all of it is ready, stops it on the way out, whatever the reason.

    Raises `ChildDied` where a process ends by itself, `Unavailable` where one is not ready in time, `Conflict` where
    another stack runs on the data directory. Ctrl-C, SIGTERM and SIGHUP raise `KeyboardInterrupt` inside.
    """
    with owning(plan.data_dir), _signals_interrupt():
        children = Children(plan.data_dir / "logs")
        try:
            for part in plan.parts:
                children.start(part.name.replace(" ", "-"), [sys.executable, "-m", part.module], plan.environment)
            _wait_until_ready(plan, children, progress, ready_seconds)
            addresses = {part.name: part.metrics_url for part in plan.parts}
            write_stack_file(plan.data_dir, RunningStack(os.getpid(), plan.gateway_url, addresses))
            yield children
        finally:
            _ignore_signals()
            for name in children.stop():
                progress(f"the {name} did not end in time and was killed")


def _wait_until_ready(plan: Plan, children: Children, progress: Progress, ready_seconds: float) -> None:
    started = time.monotonic()
    waiting = list(plan.parts)
    with httpx.Client(timeout=5.0, trust_env=False) as http:
        while waiting:
            children.check()
            for part in [part for part in waiting if _answers(http, part.ready_url)]:
                waiting.remove(part)
                progress(f"{part.name} ready after {time.monotonic() - started:.0f} s")
            if waiting and time.monotonic() - started > ready_seconds:
                names = ", ".join(part.name for part in waiting)
                raise Unavailable(
                    f"Not ready after {ready_seconds:.0f} s: {names}. Logs are in {plan.data_dir / 'logs'}."
                )
            if waiting:
                time.sleep(_POLL_SECONDS)


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int

    @property
    def url(self) -> str:
        # What listens on every interface is reached by the loopback.
        return f"http://{'127.0.0.1' if self.host in _EVERYWHERE else self.host}:{self.port}"


def _address(host: str, port: int, taken: set[int]) -> _Address:
    return _Address(host, free_port(port, host, taken))


def _given(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Turns the signals that end a process into `KeyboardInterrupt`, and gives the handlers back afterwards."""
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    # A second Ctrl-C must not leave processes behind.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
