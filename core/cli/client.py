"""The gateway as a Python object: one method per call, errors with the gateway's own words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from core.cli.keys import ADMIN_KEY, API_KEY, KeyFiles
from core.cli.stack_file import read_stack_file
from core.errors import LatentBankError
from core.settings import Settings

Json = dict[str, Any]

_TIMEOUT = httpx.Timeout(30.0, read=300.0)
_PAGE = 100


class ApiError(LatentBankError):
    """The gateway refused the request."""

    code = "api_error"

    def __init__(self, message: str, *, code: str, status: int, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.answered_code = code
        self.answered_status = status
        self.retry_after_seconds = retry_after_seconds


class GatewayAway(LatentBankError):
    """No gateway answers; start a stack with 'latentbank up' or set LATENTBANK_GATEWAY_URL."""

    code = "gateway_away"
    status = 503


class NoKey(LatentBankError):
    """There is no API key; run 'latentbank up' on this machine, or set LATENTBANK_API_KEY."""

    code = "no_key"
    status = 401


class Api:
    """Calls the gateway at `url` with `key`. Every method raises `ApiError` or `GatewayAway`."""

    def __init__(self, url: str, key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=_TIMEOUT,
            transport=transport,
            trust_env=False,  # a proxy meant for the internet would stand between us and our own machine
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def create_tenant(self, name: str, weight: float | None = None, fallback: str | None = None) -> Json:
        """`{id, name, api_key}`; the only time that the key is shown. Needs the admin key."""
        body: Json = {"name": name}
        if weight is not None:
            body["weight"] = weight
        if fallback is not None:
            body["fallback"] = fallback
        return self._call("POST", "/v1/tenants", json=body)

    def change_tenant(self, tenant_id: str, changes: Mapping[str, Any]) -> Json:
        """`weight`, `false_activation`, `fallback`, `quotas`: what is given changes. Needs the admin key."""
        return self._call("PATCH", f"/v1/tenants/{quote(tenant_id, safe='')}", json=dict(changes))

    def tenant(self, tenant_id: str) -> Json:
        """With its own `quotas`, and `usage` beside the limits that hold. Needs the admin key."""
        return self._call("GET", f"/v1/tenants/{quote(tenant_id, safe='')}")

    def tenants(self) -> list[Json]:
        return list(self._pages("/v1/tenants", {}))

    def keys(self, tenant_id: str | None = None) -> list[Json]:
        """Newest first. With `tenant_id`, here and below, for the admin."""
        return list(self._pages(_keys_of(tenant_id), {}))

    def issue_key(self, fields: Mapping[str, Any], tenant_id: str | None = None) -> Json:
        """`name`, `scopes?`, `expires_in_seconds?`; the answer has the key itself, this once."""
        return self._call("POST", _keys_of(tenant_id), json=dict(fields))

    def rotate_key(self, key_id: str, fields: Mapping[str, Any], tenant_id: str | None = None) -> Json:
        """`grace_seconds?`, `expires_in_seconds?`; the successor, as `issue_key`."""
        return self._call("POST", f"{_keys_of(tenant_id)}/{quote(key_id, safe='')}/rotate", json=dict(fields))

    def revoke_key(self, key_id: str, tenant_id: str | None = None) -> Json:
        return self._call("DELETE", f"{_keys_of(tenant_id)}/{quote(key_id, safe='')}")

    def audit(self, most: int, query: Mapping[str, str], tenant_id: str | None = None) -> list[Json]:
        """The newest `most` records; `query` may have `action` and `subject`. With `tenant_id` for the admin."""
        path = f"/v1/tenants/{quote(tenant_id, safe='')}/audit" if tenant_id else "/v1/audit"
        return list(islice(self._pages(path, query), most))

    def remember(self, fields: Mapping[str, Any], idempotency_key: str | None = None) -> Json:
        """Offers a context: `title`, `text` or `messages`, `collection?`, `metadata?`; `{id, job_id, status, …}`."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._call("POST", "/v1/memories", json=dict(fields), headers=headers)

    def remember_many(self, memories: Sequence[bytes]) -> Json:
        """Offers contexts, each in JSON as `remember` takes it, perhaps with an `idempotency_key`.

        `{data: [{index, status, memory, error}], accepted, replayed, refused}`, in their order.
        """
        body = b'{"memories": [' + b", ".join(memories) + b"]}"
        return self._call("POST", "/v1/memories/batch", content=body, headers={"Content-Type": "application/json"})

    def update(self, memory_id: str, fields: Mapping[str, Any], idempotency_key: str | None = None) -> Json:
        """A new version of a memory: `text` or `messages`, `title?`, `metadata?`; as `remember`."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._call("PUT", f"/v1/memories/{quote(memory_id, safe='')}", json=dict(fields), headers=headers)

    def memory(self, memory_id: str) -> Json:
        return self._call("GET", f"/v1/memories/{memory_id}")

    def memories(self, collection: str | None = None) -> list[Json]:
        return list(self._pages("/v1/memories", {"collection": collection} if collection else {}))

    def forget_collection(self, collection: str) -> Json:
        """The deletion of all memories of the collection."""
        return self._call("DELETE", "/v1/memories", params={"collection": collection})

    def deletion(self, deletion_id: str) -> Json:
        return self._call("GET", f"/v1/deletions/{quote(deletion_id, safe='')}")

    def delete_tenant(self, tenant_id: str) -> Json:
        """The tenant's deletion. Needs the admin key."""
        return self._call("DELETE", f"/v1/tenants/{quote(tenant_id, safe='')}")

    def export(self, path: Path, progress: Callable[[int], None]) -> None:
        """Writes the tenant's export to `path`; `progress` is told the bytes so far. Raises as the others."""
        try:
            with self._http.stream("GET", "/v1/export") as answer, path.open("wb") as file:
                if answer.is_error:
                    answer.read()
                    raise _error_of(answer)
                for part in answer.iter_bytes(1 << 20):
                    file.write(part)
                    progress(file.tell())
        except httpx.HTTPError as broken:
            raise GatewayAway(f"The gateway at {self.url} broke off: {broken or type(broken).__name__}") from broken

    def forget(self, memory_id: str) -> Json:
        return self._call("DELETE", f"/v1/memories/{memory_id}")

    def job(self, job_id: str) -> Json:
        return self._call("GET", f"/v1/jobs/{job_id}")

    def jobs(self) -> list[Json]:
        return list(self._pages("/v1/jobs", {}))

    def models(self) -> list[Json]:
        return list(self._call("GET", "/v1/models")["data"])

    def chat(
        self, model: str, messages: Sequence[Mapping[str, str]], memory: Mapping[str, Any], max_tokens: int
    ) -> Json:
        """One answer, greedy; `memory` is the extension of docs: `{mode, ids, collection, top_k, threshold}`."""
        body = {
            "model": model,
            "messages": [dict(message) for message in messages],
            "memory": dict(memory),
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        return self._call("POST", "/v1/chat/completions", json=body)

    def _pages(self, path: str, query: Mapping[str, Any]) -> Iterator[Json]:
        after: str | None = None
        while True:
            turn = {**query, "limit": _PAGE} | ({"after": after} if after else {})
            page = self._call("GET", path, params=turn)
            yield from page["data"]
            if not page.get("has_more") or not page["data"]:
                return
            after = page.get("last_id") or page["data"][-1]["id"]

    def _call(self, method: str, path: str, **arguments: Any) -> Json:
        try:
            answer = self._http.request(method, path, **arguments)
        except (httpx.ConnectError, httpx.ConnectTimeout) as away:
            raise GatewayAway(f"No gateway answers at {self.url}; start one with: latentbank up") from away
        except httpx.HTTPError as broken:
            raise GatewayAway(f"The gateway at {self.url} broke off: {broken or type(broken).__name__}") from broken
        if answer.is_error:
            raise _error_of(answer)
        try:
            body: Json = answer.json()
        except json.JSONDecodeError as strange:
            raise GatewayAway(f"What answers at {self.url} is not LatentBank's gateway (no JSON).") from strange
        return body


def open_api(settings: Settings) -> Api:
    """The gateway with the caller's own key: from the settings, or what `latentbank up` left on this machine."""
    key = settings.api_key.get_secret_value() if settings.api_key else key_files(settings).read(API_KEY)
    if key is None:
        raise NoKey()
    return Api(gateway_url(settings), key)


def open_admin_api(settings: Settings) -> Api:
    """The gateway with the admin key."""
    key = settings.admin_key.get_secret_value() if settings.admin_key else key_files(settings).read(ADMIN_KEY)
    if key is None:
        raise NoKey("There is no admin key; run 'latentbank up' on this machine, or set LATENTBANK_ADMIN_KEY.")
    return Api(gateway_url(settings), key)


def gateway_url(settings: Settings) -> str:
    """An address that was set counts first, then the stack running on this data directory, then the default."""
    if "gateway_url" in settings.model_fields_set:
        return settings.gateway_url
    running = read_stack_file(settings.data_dir)
    return running.gateway_url if running else settings.gateway_url


def key_files(settings: Settings) -> KeyFiles:
    return KeyFiles(Path(settings.data_dir) / "secrets")


def _keys_of(tenant_id: str | None) -> str:
    return f"/v1/tenants/{quote(tenant_id, safe='')}/keys" if tenant_id else "/v1/keys"


def _error_of(answer: httpx.Response) -> ApiError:
    """The error object of OpenAI's shape; whatever else came is named by its status."""
    try:
        told = answer.json()["error"]
        message, code = str(told["message"]), str(told.get("code") or told.get("type") or "error")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = f"{answer.request.method} {answer.request.url.path} answered {answer.status_code}.", "error"
    after = answer.headers.get("retry-after", "")
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS and after:
        message += f" Try again in {after} s."
    seconds = int(after) if after.isascii() and after.isdecimal() else None
    return ApiError(message, code=code, status=answer.status_code, retry_after_seconds=seconds)
