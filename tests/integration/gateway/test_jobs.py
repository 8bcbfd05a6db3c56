from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import httpx
import pytest

from core.truth.jobs import advance, claim, finish, mark_dispatched
from core.truth.records import Claim
from tests.integration.gateway.conftest import Gateway
from tests.integration.gateway.servers import wait_until

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def job_id(tenant: httpx.Client) -> str:
    return str(tenant.post("/v1/memories", json={"title": "T", "text": "The harbour opens at six."}).json()["job_id"])


def test_a_job_shows_phase_progress_and_when_it_should_be_done(
    gateway: Gateway, tenant: httpx.Client, job_id: str
) -> None:
    waiting = tenant.get(f"/v1/jobs/{job_id}").json()
    assert (waiting["object"], waiting["status"], waiting["phase"]) == ("job", "queued", None)
    assert waiting["estimated_finish"] is None

    held = _claim(gateway, job_id)
    _advance(gateway, held, 0.25)
    running = tenant.get(f"/v1/jobs/{job_id}").json()
    assert (running["status"], running["phase"], running["progress"]) == ("running", "self_study", 0.25)
    assert running["estimated_finish"] >= running["started_at"]

    _fail(gateway, held)
    failed = tenant.get(f"/v1/jobs/{job_id}").json()
    assert (failed["status"], failed["error"]) == ("failed", {"code": "adapter_invalid", "message": "All zero."})
    assert failed["finished_at"] >= failed["started_at"]


def test_jobs_are_listed_by_status_and_memory(gateway: Gateway, tenant: httpx.Client, job_id: str) -> None:
    tenant.post("/v1/memories", json={"title": "T", "text": "Another."})
    _claim(gateway, job_id)
    running = tenant.get("/v1/jobs", params={"status": "running"}).json()["data"]
    assert [job["id"] for job in running] == [job_id]
    of_memory = tenant.get("/v1/jobs", params={"memory_id": running[0]["memory_id"]}).json()["data"]
    assert of_memory[0]["id"] == job_id
    page = tenant.get("/v1/jobs", params={"limit": 1}).json()
    assert page["has_more"]
    assert tenant.get("/v1/jobs", params={"limit": 1, "after": page["last_id"]}).json()["data"][0]["id"] == job_id


def test_a_waiting_job_is_cancelled_at_once_and_again_changes_nothing(
    gateway: Gateway, tenant: httpx.Client, job_id: str
) -> None:
    cancelled = tenant.post(f"/v1/jobs/{job_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert tenant.post(f"/v1/jobs/{job_id}/cancel").json() == cancelled.json()


def test_a_running_job_is_asked_to_stop(gateway: Gateway, tenant: httpx.Client, job_id: str) -> None:
    _claim(gateway, job_id)
    asked = tenant.post(f"/v1/jobs/{job_id}/cancel").json()
    assert (asked["status"], asked["cancel_requested"]) == ("running", True)


def test_events_are_listed_in_pages_oldest_first(gateway: Gateway, tenant: httpx.Client, job_id: str) -> None:
    held = _claim(gateway, job_id)
    for part in (0.1, 0.2, 0.3):
        _advance(gateway, held, part)

    everything = tenant.get(f"/v1/jobs/{job_id}/events").json()["data"]
    first = tenant.get(f"/v1/jobs/{job_id}/events", params={"limit": 2}).json()
    rest = tenant.get(f"/v1/jobs/{job_id}/events", params={"after": first["last_id"]}).json()

    assert first["has_more"]
    assert first["data"] + rest["data"] == everything
    assert [event["id"] for event in everything] == sorted(event["id"] for event in everything)
    assert everything[0]["type"] == "state"


def test_the_stream_of_an_ended_job_tells_all_and_ends(gateway: Gateway, tenant: httpx.Client, job_id: str) -> None:
    _fail(gateway, _claim(gateway, job_id))

    answer = tenant.get(f"/v1/jobs/{job_id}/events", headers=STREAM)

    assert answer.headers["content-type"].startswith("text/event-stream")
    events = list(_events(iter(answer.text.splitlines())))
    listed = tenant.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert [json.loads(event["data"]) for event in events[:-1]] == listed
    assert [int(event["id"]) for event in events[:-1]] == [event["id"] for event in listed]
    assert [event["event"] for event in events[:-1]] == [event["type"] for event in listed]
    assert events[-1] == {"data": "[DONE]"}


def test_a_stream_goes_on_after_the_last_event_seen(gateway: Gateway, tenant: httpx.Client, job_id: str) -> None:
    _fail(gateway, _claim(gateway, job_id))
    listed = tenant.get(f"/v1/jobs/{job_id}/events").json()["data"]

    again = tenant.get(f"/v1/jobs/{job_id}/events", headers={**STREAM, "Last-Event-ID": str(listed[0]["id"])})
    after_all = tenant.get(f"/v1/jobs/{job_id}/events", headers={**STREAM, "Last-Event-ID": str(listed[-1]["id"])})

    assert [event.get("id") for event in _events(iter(again.text.splitlines()))] == [
        *(str(event["id"]) for event in listed[1:]), None
    ]  # fmt: skip
    assert list(_events(iter(after_all.text.splitlines()))) == [{"data": "[DONE]"}]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "\u00b2"])
def test_a_last_event_id_that_is_none_is_refused(
    last: str, gateway: Gateway, tenant: httpx.Client, job_id: str
) -> None:
    answer = tenant.get(f"/v1/jobs/{job_id}/events", headers={**STREAM, "Last-Event-ID": last.encode("latin-1")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_events_are_streamed_while_they_happen(gateway: Gateway, tenant: httpx.Client, job_id: str) -> None:
    seen: list[dict[str, str]] = []

    def follow() -> None:
        with tenant.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as answer:
            seen.extend(_Growing(seen, _events(answer.iter_lines())))

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        wait_until(lambda: len(seen) == 1)
        held = _claim(gateway, job_id)
        wait_until(lambda: any("running" in event["data"] for event in seen))
        _advance(gateway, held, 0.5)
        wait_until(lambda: any(event.get("event") == "progress" or "0.5" in event["data"] for event in seen))
        _fail(gateway, held)
    finally:
        thread.join(10)
    assert seen[-1] == {"data": "[DONE]"}


def test_a_stream_ends_without_done_when_the_gateway_stops(gateway: Gateway, tenant: httpx.Client, job_id: str) -> None:
    with tenant.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as answer:
        lines = answer.iter_lines()
        next(lines)
        gateway.services.stopping.set()
        assert "[DONE]" not in "".join(lines)


class _Growing:
    """Appends each item to `target` as it comes; nothing is left to extend with."""

    def __init__(self, target: list[dict[str, str]], items: Iterator[dict[str, str]]) -> None:
        self._target, self._items = target, items

    def __iter__(self) -> Iterator[dict[str, str]]:
        for item in self._items:
            self._target.append(item)
        return iter(())


def _events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Server-sent events as fields; comments and `retry` left out."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line and name not in ("", "retry"):
            fields[name] = value
        elif not line and fields:
            yield fields
            fields = {}


def _claim(gateway: Gateway, job_id: str) -> Claim:
    with gateway.database.begin() as connection:
        mark_dispatched(connection, job_id)
        held = claim(connection, job_id, "worker_test", 60)
    assert held is not None
    return held


def _advance(gateway: Gateway, held: Claim, progress: float) -> None:
    with gateway.database.begin() as connection:
        advance(connection, held, "self_study", progress, f"at {progress}")


def _fail(gateway: Gateway, held: Claim) -> None:
    with gateway.database.begin() as connection:
        finish(connection, held, "failed", "adapter_invalid", "adapter_invalid", "All zero.")
