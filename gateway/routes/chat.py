"""Questions, in OpenAI's shape, passed on to an inference worker; with the extension field `memory`, in and out."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request, Response

from core.errors import NotFound
from core.truth.records import Tenant
from gateway.answers import Answer
from gateway.auth import QueryTenant
from gateway.bodies import read_json
from gateway.openapi import answers, errors, takes
from gateway.schemas import ChatQuestion, CompletionQuestion, Question
from gateway.services import Parts

router = APIRouter(tags=["chat"])

# What goes into a worker's address: no name in it starts with a dot, so none leads elsewhere.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+:-]*(/[A-Za-z0-9][A-Za-z0-9._@+:-]*)*")
_ERRORS = errors(400, 401, 403, 404, 409, 413, 429, 503)


def _answer(shape: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "description": f"OpenAI's {shape}, with `memory`: which memory served it and how the gate decided; with "
            "`stream` as server-sent events.",
            "content": {
                "application/json": {"schema": answers(Answer)},
                "text/event-stream": {"schema": {"description": f"Each event's `data` is a chunk of a {shape}."}},
            },
        },
        **_ERRORS,
    }


@router.post(
    "/v1/chat/completions",
    response_class=Response,
    responses=_answer("chat completion"),
    openapi_extra=takes(ChatQuestion),
)
async def chat_completions(request: Request, parts: Parts, tenant: QueryTenant) -> Response:
    """Answers a chat with the memory that the gate chooses, or without one."""
    return await _pass_on(request, parts, tenant, ChatQuestion)


@router.post(
    "/v1/completions",
    response_class=Response,
    responses=_answer("completion"),
    openapi_extra=takes(CompletionQuestion),
)
async def completions(request: Request, parts: Parts, tenant: QueryTenant) -> Response:
    """Continues a prompt with the memory that the gate chooses, or without one."""
    return await _pass_on(request, parts, tenant, CompletionQuestion)


@router.get(
    "/v1/models",
    response_class=Response,
    responses={
        200: {
            "description": "OpenAI's list of models: the base model, then the memories that are ready.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        **errors(401, 403, 503),
    },
)
async def models(request: Request, parts: Parts, tenant: QueryTenant) -> Response:
    """What `model` may be."""
    return await parts.inference.relay(request, tenant, "/v1/models")


@router.get(
    "/v1/models/{model:path}",
    response_class=Response,
    responses={
        200: {"description": "OpenAI's model.", "content": {"application/json": {"schema": {"type": "object"}}}},
        **errors(401, 403, 404, 409, 503),
    },
)
async def model(model: str, request: Request, parts: Parts, tenant: QueryTenant) -> Response:
    """The base model, or a memory that is ready."""
    if len(model) > 256 or not _MODEL.fullmatch(model):
        raise NotFound("There is no such model.", param="model")
    return await parts.inference.relay(request, tenant, f"/v1/models/{model}")


async def _pass_on(request: Request, parts: Parts, tenant: Tenant, model: type[Question]) -> Response:
    _, body = await read_json(request, model, parts.settings.limits.body_bytes)
    return await parts.inference.relay(request, tenant, request.url.path, body)
