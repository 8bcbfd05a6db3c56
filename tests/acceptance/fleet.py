"""Two of each process on servers that they share, started, stopped and replaced one by one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.fixtures.ports import free_port

KINDS: Mapping[str, tuple[str, str, str]] = {
    # the setting of the port, the path that says that it is ready, and what follows `python -m`
    "orchestrator": ("ORCHESTRATOR__METRICS_PORT", "/metrics", "orchestrator"),
    "distillation": ("DISTILLATION__METRICS_PORT", "/metrics", "tests.integration.distillation.supervisor"),
    "inference": ("SERVING__PORT", "/ready", "workers.inference"),
    "gateway": ("GATEWAY__PORT", "/ready", "gateway"),
}


@dataclass(slots=True)
class Member:
    """One place of the fleet: its port stays, its process is replaced."""

    kind: str
    port: int
    environment: Mapping[str, str]
    arguments: tuple[str, ...]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        setting, _, module = KINDS[self.kind]
        environment = {**self.environment, f"LATENTBANK_{setting}": str(self.port)}
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", module, *self.arguments]
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def stop(self, seconds: float = 90.0) -> int:
        """Asks it to end as an operator does; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def await_ready(self, seconds: float = 180.0) -> None:
        assert self.process is not None
        give_up = time.monotonic() + seconds
        while not answers(self.url + KINDS[self.kind][1]):
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < give_up, f"not ready: {self.log.read_text()[-4000:]}"
            time.sleep(0.1)


@dataclass(slots=True)
class Fleet:
    """`environment` is what all members have."""

    directory: Path
    environment: Mapping[str, str]
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)

    def add(self, kind: str) -> Member:
        log = self.directory / f"{kind}-{sum(member.kind == kind for member in self.members)}.log"
        environment = {**os.environ, **self.environment}
        member = Member(kind, free_port(), environment, self.arguments.get(kind, ()), log)
        self.members.append(member)
        member.start()
        return member

    def of(self, kind: str) -> list[Member]:
        return [member for member in self.members if member.kind == kind]

    def end(self) -> None:
        """Ends what is left, and insists."""
        running = [member.process for member in self.members if member.process is not None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not come about within {seconds} s"
        time.sleep(0.05)
