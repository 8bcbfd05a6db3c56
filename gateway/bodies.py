"""Request bodies, read by hand: never more than the limit in memory, UTF-8, JSON, then a pydantic model.

Messages never repeat what was sent, since that may be a tenant's text.
"""

from __future__ import annotations

from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from core.errors import InvalidRequest, NotUtf8, PayloadTooLarge

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request, model: type[Model], limit: int) -> tuple[Model, bytes]:
    """The body as `model`, and its bytes.

    Raises `PayloadTooLarge` as soon as more than `limit` bytes are announced or have come, `NotUtf8`, and
    `InvalidRequest` with the first wrong field as `param`.
    """
    body = await read_body(request, limit)
    return parse(model, body), body


async def read_body(request: Request, limit: int) -> bytes:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidRequest("Compressed bodies are not taken; send it without Content-Encoding.")
    if _announced(request) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        body += chunk
    return bytes(body)


def parse(model: type[Model], body: bytes) -> Model:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise NotUtf8(f"The body is not valid UTF-8 at byte {problem.start}; encode it as UTF-8.") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as problem:
        raise invalid(problem) from None


def _announced(request: Request) -> int:
    value = request.headers.get("content-length", "")
    return int(value) if value.isdecimal() and len(value) < 20 else 0


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than the {limit} bytes that this gateway accepts.")


def invalid(problem: ValidationError) -> InvalidRequest:
    first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or None
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{param}: {message}." if param else f"{message}.", param=param)
