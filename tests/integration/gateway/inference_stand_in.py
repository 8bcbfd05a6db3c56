"""A small real HTTP server that speaks the inference worker's contract, and does on demand what goes wrong there.

`model` chooses what it does: `slow` (answers after a minute), `breaks` (breaks off its stream), `plain-500`,
`unknown` (404 in OpenAI's shape), anything else answers with what it was asked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from core.internal import INTERNAL_HEADER, TENANT_HEADER, sha256_of
from core.residency import ResidencyReport
from tests.fixtures.internal import access

ANNOUNCED: dict[str, str] = {}
"""Which worker was last announced at an address."""


class StandIn:
    def __init__(self, token: str) -> None:
        self.token = token
        self.busy: int | None = None
        """The status with which it turns everybody away."""
        self.requests: list[dict[str, Any]] = []
        self.held: tuple[str, ...] = ()
        """Digests that it says are in its slots."""
        self.reporting: float | None = 0.0
        """After how many seconds it reports what it holds; `None`: it answers in no known shape."""
        self.running = 0
        self.cancelled = 0
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.get("/v1/models")(self.models)
        self.app.get("/v1/models/{name:path}")(self.model)
        self.app.get("/v1/internal/residency")(self.residency)

    async def models(self, request: Request) -> Response:
        self.requests.append({"headers": dict(request.headers)})
        data = [{"id": "tiny", "object": "model", "created": 0, "owned_by": "latentbank"}]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, name: str, request: Request) -> Response:
        self.requests.append({"headers": dict(request.headers), "model": name})
        if name == "unknown":
            return _error(404, "not_found")
        return JSONResponse({"id": name, "object": "model", "created": 0, "owned_by": "latentbank"})

    async def residency(self, request: Request) -> Response:
        if not await self._from_gateway(request):
            return _error(401, "invalid_api_key")
        if self.reporting is None:
            return JSONResponse({"slot": [7]})
        await asyncio.sleep(self.reporting)
        report = ResidencyReport(self.held, (), (), self.running, 0, 16)
        return JSONResponse(dataclasses.asdict(report))

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append({"headers": dict(request.headers), "body": body})
        if not await self._from_gateway(request):
            return _error(401, "invalid_api_key")
        if self.busy is not None:
            return _error(self.busy, "unavailable" if self.busy == 503 else "overloaded")
        match body["model"]:
            case "unknown":
                return _error(404, "model_not_found")
            case "plain-500":
                return PlainTextResponse("Internal Server Error", 500)
            case "slow" if not body.get("stream"):
                await self._until_gone(request)
                return _error(500, "internal_error")
        if body.get("stream"):
            return StreamingResponse(self._stream(body["model"]), media_type="text/event-stream")
        return JSONResponse(_completion(body, request.headers["x-latentbank-tenant"]))

    async def _from_gateway(self, request: Request) -> bool:
        """Signed for the worker that was last announced at this address, for this tenant and this body."""
        checker = access(self.token, ANNOUNCED[str(request.base_url).rstrip("/")])
        header, tenant_id = (request.headers.get(name, "") for name in (INTERNAL_HEADER, TENANT_HEADER))
        path = request.scope["raw_path"].decode()
        signed = checker.body_sha256(header, tenant_id, request.method, path, time.time())
        return signed == sha256_of(await request.body())

    async def _until_gone(self, request: Request) -> None:
        self.running += 1
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        self.running -= 1
        self.cancelled += 1

    async def _stream(self, model: str) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            for word in ("the", " harbour", " opens", " at", " six"):
                yield _chunk(word)
                await asyncio.sleep(0.001)
                if model == "breaks":
                    yield b'data: {"half": '
                    raise ConnectionError
            if model == "slow":
                await asyncio.sleep(60)
            yield _chunk(None) + b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def _completion(body: dict[str, Any], tenant_id: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"You said: {body['messages'][-1]['content']}"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        "memory": {
            "served_by": None,
            "served_by_all": [],
            "memory_id": None,
            "digest": None,
            "title": None,
            "score": None,
            "threshold": None,
            "abstained": True,
            "candidates": [],
        },
        "stand_in": {"asked": body.get("memory"), "of": tenant_id},
    }


def _chunk(word: str | None) -> bytes:
    choice = {"index": 0, "delta": {"content": word} if word else {}, "finish_reason": None if word else "stop"}
    fields = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}
    return f"data: {json.dumps(fields)}\n\n".encode()


def _error(status: int, code: str) -> Response:
    error = {"message": "The stand-in says no.", "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"error": error}, status)
