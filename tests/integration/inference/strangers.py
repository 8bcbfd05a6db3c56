"""What a stranger can ask of another tenant's things, generated from the OpenAPI document.

A new operation is covered by itself. One that takes a body, or a parameter that is not here yet, raises until it is
said what of theirs may be put there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.ids import Kind, new_id
from tests.integration.gateway.operations import Operation

HARMLESS = {"limit", "status", "action", "include_deleted"}
"""Parameters that can name nothing of a tenant."""
WORDS = {"role": "user", "content": "Who is the mayor of Velmora?"}
KINDS: dict[str, Kind] = {
    **{"tenant_id": "tenant", "memory_id": "mem", "job_id": "job", "key_id": "key"},
    "deletion_id": "del",
}


@dataclass(frozen=True, slots=True)
class Things:
    """What a tenant has. `ids` are by the names of path parameters, `names` by those of other parameters."""

    ids: Mapping[str, str]
    names: Mapping[str, str]

    def put(self, parameter: str, operation: Operation) -> str:
        """What of it goes into a parameter; `KeyError` where nobody has thought of that one yet."""
        if parameter == "after":
            return self._after(operation)
        same = {"model": "memory_id", "subject": "memory_id"}.get(parameter, parameter)
        return {**self.ids, **self.names}[same]

    def _after(self, operation: Operation) -> str:
        schemas = operation.parameters["query", "after"]["schema"]
        pattern = str(schemas.get("anyOf", [schemas])[0].get("pattern", ""))
        for name, kind in KINDS.items():
            if pattern.startswith(f"^{kind}_"):
                return self.ids[name]
        return self.names["Last-Event-ID"]


def nobodys_things() -> Things:
    names = {"collection": "nothing", "Idempotency-Key": f"never-{new_id('req')}", "Last-Event-ID": "1"}
    return Things({name: new_id(kind) for name, kind in KINDS.items()}, names)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    @property
    def text(self) -> str:
        return f"{self.path} {self.params} {self.headers} {self.body}"


def requests(operation: Operation, things: Things, base: str) -> Iterator[Request]:
    """All that can be asked of this operation for `things`; as many, in the same order, whatever they are."""
    method = operation.method
    path = re.sub(r"\{(\w+)\}", lambda found: things.put(found[1], operation), operation.path)
    for body in _bodies(operation, things, base):
        yield Request(method, path, body=body)
        for name in operation.names_in("query"):
            if name not in HARMLESS:
                yield Request(method, path, {name: things.put(name, operation)}, body=body)
        for name in operation.names_in("header"):
            yield Request(method, path, headers={name: things.put(name, operation)}, body=body)
    # What the gateway tells its workers, and what a proxy or a guess may add.
    forged = {name: things.ids["tenant_id"] for name in ("X-LatentBank-Tenant", "X-Tenant-Id")}
    yield Request(method, path, headers=forged, body=body)
    if operation.streams and not operation.takes_body:
        yield Request(method, path, headers={"Accept": "text/event-stream"})


def _bodies(operation: Operation, things: Things, base: str) -> list[Any]:
    if not operation.takes_body:
        return [None]
    memory, collection = things.ids["memory_id"], things.names["collection"]
    questions: list[dict[str, Any]] = [
        {"model": memory},
        {"model": memory, "stream": True},
        {"model": base, "memory": {"ids": [memory]}},
        {"model": base, "memory": {"ids": [memory], "mode": "force"}},
        {"model": base, "memory": {"ids": [memory], "fallback": "text"}},
        {"model": base, "memory": {"collection": collection, "explain": True}},
        {"model": base, "memory": {"collection": collection, "threshold": 0.0}, "stream": True},
        {"model": base, "user": things.ids["tenant_id"]},
    ]
    context = {"title": "Ours", "text": "It opens at six.", "collection": collection}
    bodies: dict[str, list[Any]] = {
        "POST /v1/memories": [context],
        "POST /v1/memories/batch": [{"memories": [context]}],
        "PUT /v1/memories/{memory_id}": [{"text": "ours"}],
        "PATCH /v1/tenant": [{"fallback": "text"}],
        "POST /v1/keys": [{"name": "ours"}],
        "POST /v1/keys/{key_id}/rotate": [{"grace_seconds": 0}],
        "POST /v1/chat/completions": [{**one, "messages": [WORDS], "max_tokens": 2} for one in questions],
        "POST /v1/completions": [{**one, "prompt": WORDS["content"], "max_tokens": 2} for one in questions],
        "POST /v1/tenants": [{"name": "ours"}],
        "PATCH /v1/tenants/{tenant_id}": [{"fallback": "text"}],
        "POST /v1/tenants/{tenant_id}/keys": [{"name": "ours"}],
        "POST /v1/tenants/{tenant_id}/keys/{key_id}/rotate": [{"grace_seconds": 0}],
    }
    return bodies[operation.name]
