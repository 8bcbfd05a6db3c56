"""The four processes as a user starts them, and a client for each tenant."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from core.cli.stack import Plan, plan_stack, running_stack
from core.settings import Settings

_ENDED = ("succeeded", "failed", "rejected", "cancelled")


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack; `lines` is what it said while it started."""

    plan: Plan
    lines: list[str] = field(default_factory=list)

    def tenant(self, name: str, **settings: object) -> httpx.Client:
        """A client with the key of a new tenant."""
        answer = httpx.post(
            f"{self.plan.gateway_url}/v1/tenants",
            json={"name": name, **settings},
            headers={"Authorization": f"Bearer {self.plan.admin_key}"},
            timeout=30,
        )
        assert answer.status_code in (200, 201), answer.text
        key = answer.json()["api_key"]
        return httpx.Client(
            base_url=self.plan.gateway_url, headers={"Authorization": f"Bearer {key}"}, timeout=120, trust_env=False
        )

    def admin(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.plan.admin_key}"}
        return httpx.Client(base_url=self.plan.gateway_url, headers=headers, timeout=120, trust_env=False)

    def files_with(self, *words: str) -> dict[str, set[str]]:
        """Which of `words` are in which file of the data directory, but for base models; logs and tables too."""
        found = {}
        for path in sorted(self.plan.data_dir.rglob("*")):
            if path.is_file() and "bases" not in path.relative_to(self.plan.data_dir).parts:
                with suppress(FileNotFoundError):
                    content = path.read_bytes()
                    if there := {word for word in words if word.encode() in content}:
                        found[str(path.relative_to(self.plan.data_dir))] = there
        return found

    def metrics(self, part: str) -> str:
        url = next(one.metrics_url for one in self.plan.parts if one.name == part)
        return httpx.get(url, timeout=30).raise_for_status().text


@contextmanager
def started(data_dir: Path, overrides: Mapping[str, str]) -> Iterator[Stack]:
    """The embedded stack on free ports in `data_dir`; `overrides` are environment variables."""
    settings = Settings(data_dir=data_dir)
    stack = Stack(plan_stack(settings, data_dir, overrides))
    with running_stack(stack.plan, stack.lines.append):
        yield stack


def openai_client(tenant: httpx.Client) -> OpenAI:
    key = tenant.headers["Authorization"].removeprefix("Bearer ")
    return OpenAI(api_key=key, base_url=f"{tenant.base_url}/v1", timeout=120, max_retries=0)


def remember(tenant: httpx.Client, body: Mapping[str, Any]) -> dict[str, Any]:
    """Sends a context; the 202's body."""
    answer = tenant.post("/v1/memories", json=dict(body))
    assert answer.status_code == 202, answer.text
    sent: dict[str, Any] = answer.json()
    return sent


def job_ended(tenant: httpx.Client, job_id: str, seconds: float) -> dict[str, Any]:
    """Waits until the job has ended; fails with its events where it has not in time."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        job: dict[str, Any] = tenant.get(f"/v1/jobs/{job_id}").json()
        if job["status"] in _ENDED:
            return job
        time.sleep(0.5)
    raise AssertionError(f"not ended after {seconds} s: {job}\n{tenant.get(f'/v1/jobs/{job_id}/events').text}")


def ask(tenant: httpx.Client, model: str, question: str, **memory: Any) -> dict[str, Any]:
    """The chat completion, greedy, with its `memory` extension."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 32}
    answer = tenant.post("/v1/chat/completions", json=body | ({"memory": memory} if memory else {}))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def text_of(completion: Mapping[str, Any]) -> str:
    text: str = completion["choices"][0]["message"]["content"]
    return text


def base_model(tenant: httpx.Client) -> str:
    """The first model that the API lists is the base."""
    name: str = tenant.get("/v1/models").json()["data"][0]["id"]
    return name


def attested(client: httpx.Client, path: str, seconds: float = 120) -> dict[str, Any]:
    """Waits until the deletion at `path` is attested; fails with how far it came where it is not in time."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        deletion: dict[str, Any] = client.get(path).json()
        if deletion["state"] == "attested":
            return deletion
        time.sleep(0.5)
    raise AssertionError(f"not attested after {seconds} s: {deletion}")
