"""A stand-in gateway on a real socket: enough of the API for the CLI, with answers that tests choose."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]

_STEPS = ("deleted_at", "tombstoned_at", "drained_at", "purged_at", "attested_at")
_DELETION: Json = {"id": "del_1", "state": "attested", **dict.fromkeys(_STEPS, 1700000000)}


@dataclass
class GatewayDouble:
    """Tenants by key, memories by id; each look at a job moves it one step along `steps`."""

    admin_key: str = "admin-key"
    keys: dict[str, str] = field(default_factory=dict)
    memories: dict[str, Json] = field(default_factory=dict)
    jobs: dict[str, list[Json]] = field(default_factory=dict)
    steps: tuple[Json, ...] = (
        {"status": "queued", "phase": None, "progress": 0.0},
        {"status": "running", "phase": "training", "progress": 0.5},
        {"status": "succeeded", "phase": None, "progress": 1.0, "started_at": 100, "finished_at": 142},
    )
    tenant: Json = field(default_factory=dict)
    """What is told of a single tenant."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Messages by the titles of what batches refuse."""
    taken: dict[str, str] = field(default_factory=dict)
    """Memories by their keys."""
    kept: str = "pending"
    """The status of what batches take."""
    answers: dict[str, Json] = field(default_factory=dict)
    """By question and mode: `{"text", "memory"}`."""
    audit: list[Json] = field(default_factory=list)
    requests: list[tuple[str, str, Json]] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> GatewayDouble:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, target: str, key: str, body: Json) -> tuple[int, Json]:
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.requests.append((method, url.path, body | query))
        if url.path == "/ready":
            return 200, {"status": "ready"}
        if url.path.startswith("/v1/tenants"):
            return self._tenants(method, url.path, key, body)
        if key not in self.keys:
            return _error(401, "invalid_api_key", "No valid API key.")
        return self._of_tenant(method, url.path, self.keys[key], body, query)

    def _tenants(self, method: str, path: str, key: str, body: Json) -> tuple[int, Json]:
        if key != self.admin_key:
            return _error(403, "forbidden", "This key may not do that; it needs the admin key.")
        if "/keys" in path:
            return self._keys(method, path, body)
        if path.endswith("/audit"):
            return 200, _page(self.audit)
        if method == "GET" and path != "/v1/tenants":
            return 200, {"id": path.rpartition("/")[2], "name": "harbour", **self.tenant}
        if method == "GET":
            return 200, _page([{"id": f"tenant_{name}", "name": name, "weight": 1.0} for name in self.keys.values()])
        if method == "DELETE":
            return 200, _DELETION
        if method == "PATCH":
            return 200, {"id": "tenant_harbour", "name": "harbour", **body}
        name = body["name"]
        self.keys[f"lb_{name}"] = name
        return 201, {"id": f"tenant_{name}", "name": name, "api_key": f"lb_{name}"}

    def _keys(self, method: str, path: str, body: Json) -> tuple[int, Json]:
        made = {
            "id": "key_a",
            "name": "a key",
            "scopes": ["read"],
            "active": method != "DELETE",
            "created_at": 1700000000,
        }
        made |= {"last_used_at": None, "expires_at": None, "revoked_at": None}
        if method == "GET":
            return 200, _page([made])
        if method == "DELETE":
            return 200, made
        scopes = body.get("scopes", ["read"])
        return 201, {**made, "id": "key_b", "scopes": scopes, "api_key": "lb_successor"}

    def _of_tenant(self, method: str, path: str, tenant: str, body: Json, query: Json) -> tuple[int, Json]:
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "mem_x"}, {"id": "base-model"}]}
        if path.startswith("/v1/keys"):
            return self._keys(method, path, body)
        if path == "/v1/audit":
            return 200, _page(self.audit)
        if path == "/v1/chat/completions":
            return self._chat(body)
        if path == "/v1/jobs":
            return 200, _page([steps[0] for steps in self.jobs.values()])
        if found := re.fullmatch(r"/v1/jobs/(\w+)", path):
            steps = self.jobs[found[1]]
            return 200, steps.pop(0) if len(steps) > 1 else steps[0]
        if path == "/v1/deletions/del_1" or (path, method) == ("/v1/memories", "DELETE"):
            return 200, _DELETION
        if path == "/v1/memories" and method == "POST":
            return 202, self._remember(tenant, body)
        if path == "/v1/memories/batch":
            return 200, {"data": [self._take(tenant, memory) for memory in body["memories"]]}
        if path == "/v1/memories":
            own = [_public(m) for m in self.memories.values() if m["tenant"] == tenant]
            start = next((i + 1 for i, m in enumerate(own) if m["id"] == query.get("after")), 0)
            return 200, _page(own[start:], limit=2)
        memory = self.memories.get(path.removeprefix("/v1/memories/"))
        if memory is None or memory["tenant"] != tenant:
            return _error(404, "not_found", "There is nothing with that id.")
        if method == "PUT":
            return 202, self._update(memory, body)
        if method == "DELETE":
            return 200, {"id": memory["id"], "object": "memory.deleted", "deleted": True}
        return 200, _public(memory)

    def _take(self, tenant: str, body: Json) -> Json:
        """A memory's outcome in a batch; `refusals` name the titles that are refused."""
        if body["title"] in self.refusals:
            error = {"code": "invalid_request", "message": self.refusals[body["title"]], "param": None}
            return {"status": "refused", "memory": None, "error": error}
        key = body["idempotency_key"]
        status = "replayed" if key in self.taken else "accepted"
        memory_id = self.taken.get(key) or self._remember(tenant, body)["id"]
        self.taken[key] = memory_id
        return {"status": status, "memory": _public(self.memories[memory_id]) | {"status": self.kept}, "error": None}

    def _remember(self, tenant: str, body: Json) -> Json:
        memory_id, job_id = f"mem_{len(self.memories)}", f"job_{len(self.memories)}"
        self.memories[memory_id] = {
            "id": memory_id,
            "title": body["title"],
            "collection": body.get("collection", "default"),
            "status": "ready",
            "version": 1,
            "bytes": 1234,
            "created_at": 1700000000,
            "job_id": job_id,
            "tenant": tenant,
        }
        self._start(memory_id, job_id)
        return _public(self.memories[memory_id]) | {"status": "pending"}

    def _update(self, memory: Json, body: Json) -> Json:
        memory |= {"version": memory["version"] + 1, "title": body.get("title", memory["title"])}
        memory["job_id"] = f"job_{len(self.jobs)}_update"
        self._start(memory["id"], memory["job_id"])
        return _public(memory)

    def _start(self, memory_id: str, job_id: str) -> None:
        self.jobs[job_id] = [{"id": job_id, "memory_id": memory_id, "attempts": 1, **step} for step in self.steps]

    def _chat(self, body: Json) -> tuple[int, Json]:
        question, mode = body["messages"][-1]["content"], body["memory"]["mode"]
        chosen = self.answers.get(f"{question}|{mode}", {"text": f"{mode} answer", "memory": {"served_by": None}})
        return 200, {"choices": [{"message": {"content": chosen["text"]}}], "memory": chosen["memory"]}


def _public(memory: Json) -> Json:
    return {name: value for name, value in memory.items() if name != "tenant"}


def _page(data: list[Json], limit: int = 100) -> Json:
    kept = data[:limit]
    last = kept[-1].get("id") if kept else None
    return {"object": "list", "data": kept, "has_more": len(data) > limit, "last_id": last}


def _error(status: int, code: str, message: str) -> tuple[int, Json]:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def _handler_of(double: GatewayDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            key = self.headers.get("authorization", "").removeprefix("Bearer ")
            status, answer = double.answer(self.command, self.path, key, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    return Handler
