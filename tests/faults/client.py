"""A tenant's client as it should be: every request with an idempotency key, again until it was answered."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults.stack import ADMIN_KEY, WAIT_SECONDS, Stack

_AGAIN = frozenset({429, 500, 502, 503, 504})


@dataclass
class Tenant:
    """`acknowledged` maps each memory that was ever acknowledged to the text and job that were."""

    stack: Stack
    id: str
    key: str
    acknowledged: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)

    def call(self, method: str, path: str, *, seconds: float = WAIT_SECONDS, **options: Any) -> httpx.Response:
        """Asks until there is an answer that is not "come back later"."""
        end = time.monotonic() + seconds
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        while True:
            try:
                answer = httpx.request(
                    method, f"{self.stack.gateway_url}{path}", headers=headers, timeout=15, **options
                )
                if answer.status_code not in _AGAIN:
                    return answer
                why = answer.text
            except httpx.TransportError as problem:
                why = repr(problem)
            assert time.monotonic() < end, f"{method} {path}: {why}\n{self.stack.tails()}"
            self.stack.tend()
            time.sleep(0.2)

    def remember(self, text: str, **body: Any) -> tuple[str, str]:
        """Ids of memory and job, once acknowledged."""
        answer = self.call(
            "POST",
            "/v1/memories",
            json={"title": "A title", "text": text, **body},
            headers={"Idempotency-Key": secrets.token_hex(8)},
        )
        assert answer.status_code == 202, answer.text
        return self._note(answer.json(), text)

    def revise(self, memory_id: str, text: str) -> str | None:
        """The new job's id; None where the memory is in work or deleted."""
        answer = self.call(
            "PUT", f"/v1/memories/{memory_id}", json={"text": text}, headers={"Idempotency-Key": secrets.token_hex(8)}
        )
        if answer.status_code == 409:
            return None
        assert answer.status_code == 202, answer.text
        return self._note(answer.json(), text)[1]

    def delete(self, memory_id: str) -> None:
        answer = self.call("DELETE", f"/v1/memories/{memory_id}")
        assert answer.status_code == 200, answer.text
        self.deleted.add(memory_id)

    def cancel(self, job_id: str) -> None:
        answer = self.call("POST", f"/v1/jobs/{job_id}/cancel")
        assert answer.status_code == 200, answer.text
        self.cancelled.add(job_id)

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/v1/jobs/{job_id}").json()
        return found

    def memory(self, memory_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/v1/memories/{memory_id}").json()
        return found

    def ended(self, job_id: str, status: str = "succeeded", seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """The job once it has ended; fails where it ended otherwise."""
        self.stack.until(lambda: self.job(job_id)["finished_at"] is not None, f"the end of {job_id}", seconds)
        job = self.job(job_id)
        assert job["status"] == status, f"{job}\n{self.events(job_id)}\n{self.stack.tails()}"
        return job

    def events(self, job_id: str) -> str:
        return self.call("GET", f"/v1/jobs/{job_id}/events?limit=100").text

    def _note(self, made: dict[str, Any], text: str) -> tuple[str, str]:
        self.acknowledged.setdefault(made["id"], []).append((text, made["job_id"]))
        return made["id"], made["job_id"]


def new_tenant(stack: Stack, name: str = "tenant", **settings: Any) -> Tenant:
    admin = Tenant(stack, "", ADMIN_KEY)
    answer = admin.call("POST", "/v1/tenants", json={"name": name, **settings})
    assert answer.status_code in (200, 201), answer.text
    made = answer.json()
    return Tenant(stack, made["id"], made["api_key"])
