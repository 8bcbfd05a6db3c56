"""One tenant asks every operation of the gateway, over a real worker, for another tenant's things.

Whatever it names of theirs, the answer has to be the one for an id that nobody has. Words are planted in all that the
other tenant wrote: none of them, and no id that was not sent, may be in an answer or its headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, update

from core.truth import tables
from core.truth.api_keys import issue_key
from core.truth.clock import now
from core.truth.tenants import create_tenant
from tests.fixtures.published import OPEN
from tests.integration.gateway.declared import Declared
from tests.integration.gateway.operations import Operation, operations
from tests.integration.inference.strangers import Request, Things, nobodys_things, requests
from tests.integration.inference.test_through_the_gateway import ADMIN_KEY, TOWN, Service, service

__all__ = ["service"]

PLANT = "zyzzyva"
"""In every text that the other tenant wrote."""
IDS = re.compile(r"\b(mem|job|key|tenant|worker|req)_[a-z2-7]{26}\b|\b(chatcmpl|cmpl)-[a-z2-7]{26}\b")


@dataclass(frozen=True, slots=True)
class Other:
    """Another tenant, by what can be named of it, and its key."""

    things: Things
    key: str


@pytest.fixture(params=["ready", "pending"])
def theirs(request: pytest.FixtureRequest, service: Service) -> Other:
    """A tenant with something in every place that there is, and the memory that is asked for in this state."""
    publisher, database = service.worker.publisher, service.worker.database
    tenant_id = publisher.tenant(f"{PLANT} and sons", fallback="text")
    with database.begin() as connection:
        key, _ = issue_key(connection, tenant_id, name=f"{PLANT} the ingester")
    with _client(service, key) as client:
        context = {"title": PLANT, "text": f"{PLANT}. {TOWN}", "collection": PLANT, "metadata": {PLANT: PLANT}}
        pending = client.post("/v1/memories", json=context, headers={"Idempotency-Key": PLANT}).json()
        spare = client.post("/v1/keys", json={"name": f"{PLANT} spare"}).json()
        memory_id, job_id = pending["id"], pending["job_id"]
        if request.param == "ready":
            memory_id, job_id = publisher.admit(tenant_id, f"{PLANT} Velmora", TOWN, collection=PLANT)
            publisher.publish(tenant_id, f"{PLANT} Velmora", TOWN, seed=3, samples=OPEN, admitted=(memory_id, job_id))
    _plant_in_job(service, job_id)
    ids = {"tenant_id": tenant_id, "memory_id": memory_id, "job_id": job_id, "key_id": spare["id"]}
    names = {"collection": PLANT, "Idempotency-Key": PLANT, "Last-Event-ID": "1"}
    return Other(Things(ids, names), key)


def test_anothers_things_are_answered_for_as_things_that_do_not_exist(service: Service, theirs: Other) -> None:
    before = _all_of(service, theirs)
    declared = Declared(httpx.get(f"{service.gateway_url}/openapi.json", timeout=20).json())
    for operation in operations(declared.document):
        asked = zip(
            requests(operation, theirs.things, service.base),
            requests(operation, nobodys_things(), service.base),
            strict=True,
        )
        for request, nobodys in asked:
            answer, same = _send(service, request, declared), _send(service, nobodys, declared)
            where = (operation.name, request.text)
            assert answer.status_code == same.status_code, (*where, answer.text, same.text)
            if operation.who != "anybody":
                assert _general(answer.text) == _general(same.text), where
            _assert_status(operation, answer)
            _assert_reveals_nothing(answer, request, theirs)
    assert _all_of(service, theirs) == before, "what is theirs was changed"


def test_what_a_tenant_lists_and_is_answered_from_is_its_own(service: Service, theirs: Other) -> None:
    document = httpx.get(f"{service.gateway_url}/openapi.json", timeout=20).json()
    with _client(service, _new_key(service)) as client:
        own = client.post("/v1/memories", json={"title": "Ours", "text": "It opens.", "collection": "ours"}).json()
        for operation in operations(document):
            if operation.method == "GET" and "{" not in operation.path and operation.who != "admin":
                answer = client.get(operation.path, params={"limit": 100, "include_deleted": "true"})
                _assert_reveals_nothing(answer, Request("GET", operation.path), theirs)
        assert [one["id"] for one in client.get("/v1/memories").json()["data"]] == [own["id"]]
        assert [one["id"] for one in client.get("/v1/jobs").json()["data"]] == [own["job_id"]]
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == [service.base]
        question = {"model": service.base, "messages": [{"role": "user", "content": f"{PLANT}? Who is the mayor?"}]}
        memory = client.post("/v1/chat/completions", json={**question, "max_tokens": 2}).json()["memory"]
        assert (memory["served_by"], memory["candidates"]) == (None, [])


def _plant_in_job(service: Service, job_id: str) -> None:
    with service.worker.database.begin() as connection:
        named = tables.jobs.c.id == job_id
        connection.execute(update(tables.jobs).where(named).values(error_message=PLANT, error_code=PLANT))
        event = {"job_id": job_id, "at": now(), "level": "info", "type": "message"}
        connection.execute(insert(tables.job_events).values(message=PLANT, data={PLANT: PLANT}, **event))


def _new_key(service: Service) -> str:
    with service.worker.database.begin() as connection:
        return issue_key(connection, create_tenant(connection, "stranger").id)[0]


def _client(service: Service, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=service.gateway_url, headers=headers, timeout=60, trust_env=False)


def _send(service: Service, request: Request, declared: Declared) -> httpx.Response:
    """By a new tenant each time: what was asked before never explains what is answered."""
    with _client(service, _new_key(service)) as client:
        client.event_hooks["response"] = [declared.check]
        return client.request(
            request.method, request.path, params=request.params, headers=request.headers, json=request.body
        )


def _assert_status(operation: Operation, answer: httpx.Response) -> None:
    if operation.who == "admin":
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), operation.name
    elif "{" in operation.path:
        assert answer.status_code == 404, (operation.name, answer.text)


def _assert_reveals_nothing(answer: httpx.Response, request: Request, theirs: Other) -> None:
    """What was sent may come back, and nothing more often than that."""
    told = f"{answer.headers} {answer.text}"
    where = (request.text, told)
    assert told.count(PLANT) <= request.text.count(PLANT), where
    for id_ in theirs.things.ids.values():
        assert id_ not in told or id_ in request.text, where
    assert theirs.key not in told, where


def _general(text: str) -> str:
    """Without what differs between any two answers: ids, keys, times, and the name of the collection that was sent."""
    without_ids = IDS.sub("id", re.sub(r"lb_[\w-]+", "key", text))
    return re.sub(r"\d+", "0", without_ids).replace(PLANT, "nothing")


def _all_of(service: Service, theirs: Other) -> dict[str, Any]:
    """All that the tenant can see of itself, and what the admin can see of it."""
    ids = theirs.things.ids
    with _client(service, theirs.key) as client:
        paths = ["/v1/memories?include_deleted=true", "/v1/jobs", "/v1/keys", "/v1/audit", "/v1/tenant", "/v1/models"]
        paths += [f"/v1/memories/{ids['memory_id']}", f"/v1/jobs/{ids['job_id']}", f"/v1/jobs/{ids['job_id']}/events"]
        seen = {path: client.get(path).raise_for_status().json() for path in paths}
    with _client(service, ADMIN_KEY) as admin:
        seen["to the admin"] = admin.get(f"/v1/tenants/{ids['tenant_id']}/keys").raise_for_status().json()
    return seen
