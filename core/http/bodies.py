"""Request bodies, read by hand: never more than the limits in memory, in time, UTF-8, JSON, then a pydantic model.

Messages never repeat what was sent, since that may be a tenant's text.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from core.errors import InvalidRequest, NotUtf8, PayloadTooLarge, RequestTimeout
from core.settings import LimitSettings

Model = TypeVar("Model", bound=BaseModel)

# Strings whole, whether they end or not: what is in them is no structure. Nothing here is gone over twice.
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)


class Incoming(Protocol):
    """As much of starlette's request as is needed."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def stream(self) -> AsyncIterator[bytes]: ...


async def read_json(request: Incoming, model: type[Model], limits: LimitSettings) -> tuple[Model, bytes]:
    """The body as `model`, and its bytes.

    Raises `PayloadTooLarge` as soon as more than the limit is announced or has come, `RequestTimeout`, `NotUtf8`, and
    `InvalidRequest` with the first wrong field as `param`.
    """
    body = await read_body(request, limits.body_bytes, limits.body_seconds)
    return parse(model, body, limits), body


async def read_body(request: Incoming, most: int, seconds: float) -> bytes:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidRequest("Compressed bodies are not taken; send it without Content-Encoding.")
    if _announced(request) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > most:
                    raise _too_large(most)
                body += chunk
    except TimeoutError:
        raise RequestTimeout(f"The body did not come within {seconds:g} seconds.") from None
    return bytes(body)


def parse(model: type[Model], body: bytes, limits: LimitSettings) -> Model:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise NotUtf8(f"The body is not valid UTF-8 at byte {problem.start}; encode it as UTF-8.") from None
    check_size(text, limits.json_depth, limits.json_items)
    try:
        return model.model_validate_json(text)
    except ValidationError as problem:
        raise invalid(problem) from None


def check_size(text: str, depth: int, items: int) -> None:
    """Raises `InvalidRequest` for JSON of more levels or more items than that, before anything is made of it."""
    level = count = 0
    for found in _STRUCTURE.finditer(text):
        match found[0][0]:
            case "[" | "{":
                level += 1
                count += 1
            case "]" | "}":
                level -= 1
            case ",":
                count += 1
        if level > depth:
            raise InvalidRequest(f"The JSON is nested deeper than {depth} levels.")
        if count > items:
            raise InvalidRequest(f"The JSON has more than {items} items.")


def _announced(request: Incoming) -> int:
    value = request.headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 20 else 0


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than the {limit} bytes that are accepted here.")


def invalid(problem: ValidationError) -> InvalidRequest:
    first = problem.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or None
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    # A check of the whole body says itself which field it means.
    named = first.get("ctx", {}).get("param")
    return InvalidRequest(f"{param}: {message}." if param else f"{message}.", param=param or named)
